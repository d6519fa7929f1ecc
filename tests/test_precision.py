"""Training in other arithmetic: in bfloat16, and compiled; all that is not training stays as it is."""

import copy
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from commands import refused
from iterconv import adapt, measure, models
from iterconv.cli.main import main
from iterconv.errors import InputError
from iterconv.measuring.report import Report
from iterconv.training.config import RunConfig
from iterconv.training.run import complete, open_run
from own_models import OWN
from patched import patched
from stopping import StopAfter

TINY = RunConfig(width=4, blocks=3, epochs=2, samples=150, precision="bf16")


def test_only_bf16_changes_the_name_of_a_run():
    assert "precision" not in replace(TINY, precision="float32").to_dict()
    assert TINY.to_dict()["precision"] == "bf16" and TINY.hash != replace(TINY, precision="float32").hash
    with pytest.raises(InputError, match="float32"):
        replace(TINY, precision="bf8")


@pytest.mark.parametrize("residual", ["improper", "proper"])
def test_lipschitz_constants_are_estimated_in_float32(residual):
    torch.manual_seed(0)
    net = models.resnet(4, 3, 1, 1, 10, residual=residual).train()
    x = net.stem(torch.randn(8, 1, 8, 8))
    stages = [copy.deepcopy(net.stages[0]) for _ in range(2)]
    plain = stages[0].move_vectors((8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        cast = stages[1].move_vectors((8, 8))
        made = stages[1](x)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(plain, cast, strict=True))
    # The batch's own variance is known to bfloat16's digits only, as it is of representations in bfloat16.
    assert torch.allclose(made.float(), stages[0](x), rtol=0.05, atol=0.05)


@pytest.mark.medium
@pytest.mark.parametrize("options", [{}, {"coupling": 0.5}, {"residual": "proper", "coupling": 1.0}])
def test_a_run_in_bf16_resumes_with_the_same_bytes_and_is_measured_in_float32(tmp_path, options):
    run = replace(TINY, **options)
    complete(run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        complete(run, tmp_path / "parts", stop=StopAfter(1))
    complete(run, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert all(tensor.dtype == torch.float32 for tensor in whole.values() if tensor.is_floating_point())
    network, dataset, _ = open_run(tmp_path / "whole")
    again = measure(network, dataset.batches(dataset.test))
    pd.testing.assert_frame_equal(again.curves, Report.load(tmp_path / "whole" / "report.parquet").curves)
    complete(replace(run, precision="float32"), tmp_path / "float32")
    other = load_file(tmp_path / "float32" / "best.safetensors")
    assert any(not torch.equal(whole[name], other[name]) for name in whole), "it was trained in other numbers"
    if run.coupling == 1:
        kernels = [block.conv1.weight for block in network.stages[0].blocks]
        assert all(torch.equal(a, b) for a, b in pairwise(kernels)), "tied weights stay tied"


@pytest.mark.extended
def test_compiled_training_differs_by_rounding(tmp_path):
    options = "--width 4 --blocks 2 --stages 1 --epochs 2 --samples 150 --coupling 0.5 --lr 0.01 --residual improper"
    for name, more in ("plain", []), ("compiled", ["--compile"]):
        # In a process without the checks of types, which torch's compiler can't see through.
        command = [sys.executable, "-m", "iterconv", "train", *options.split(), *more, "--out", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
    plain, other = (load_file(tmp_path / name / "best.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == other.keys()
    for name, tensor in plain.items():
        assert torch.allclose(tensor.double(), other[name].double(), rtol=1e-3, atol=1e-3), name
    assert any(not torch.equal(tensor, other[name]) for name, tensor in plain.items()), "it was compiled"


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_compiling_is_refused_where_it_cannot_be_done(tmp_path, monkeypatch):
    assert "compile" not in RunConfig().to_dict() and replace(TINY, compile=True).hash != TINY.hash
    with pytest.raises(InputError, match="is for one device, not for 2"):
        complete(replace(TINY, compile=True), tmp_path / "run", devices=2, device="cpu")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/compiler",))
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler; install g\\+\\+"):
        complete(replace(TINY, compile=True), tmp_path / "run")


def bf16_by_hand(net, images, route):
    """The output of one route, written out, in bfloat16 as autocast has it."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z = net.stem(images)
        for number, (stage, path) in enumerate(zip(net.stages, route, strict=True)):
            z = entered = net.transitions[number - 1](z) if number else z
            for block in path:
                z = stage.step(block, z, entered)
        return net.head(z).float()


def measurable(residual="ordinary", channels=1):
    torch.manual_seed(0)
    net = models.resnet(4, 3, 2, channels, 10, residual=residual)
    for _ in range(5):
        net(torch.randn(32, channels, 8, 8))
    return net.eval(), [(torch.randn(24, channels, 8, 8), torch.randint(10, (24,))) for _ in range(2)]


@pytest.mark.parametrize("residual", ["ordinary", "improper", "proper"])
def test_measuring_in_bf16_equals_a_naive_evaluation_in_it_and_leaves_nothing_behind(residual):
    net, batches = measurable(residual)
    before = copy.deepcopy(net.state_dict())
    report = measure(net, batches, resamples=0, extra_evaluations=2, precision="bf16")
    assert report.options["precision"] == "bf16" and not torch.is_autocast_enabled("cpu")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    curves = report.curves[report.curves.metric == "cross_entropy"]
    for row in curves.itertuples():
        route = [(0, 1, 2), (0, 1, 2)]
        route[row.stage] = row.path
        losses = [F.cross_entropy(bf16_by_hand(net, x, route), y, reduction="none") for x, y in batches]
        assert row.value == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)
    exact = measure(net, batches, resamples=0, extra_evaluations=2)
    assert "precision" not in exact.options
    difference = (curves.value - exact.curves[exact.curves.metric == "cross_entropy"].value).abs().max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("name", ["plain", "wave_net", "two_towers"])
def test_foreign_models_in_bf16_equal_patched_passes_in_it(name):
    model, inputs = OWN[name]()
    adapted = adapt(model, inputs)
    ways = [stage.shared for stage in adapted.stages]
    report = measure(adapted, [(inputs, None)], against="predictions", resamples=0, precision="bf16")
    assert [stage.shared for stage in adapted.stages] == ways, "what is proven in float32 holds in bfloat16, too"
    for row in report.curves[report.curves.metric == "cross_entropy"].itertuples():
        blocks = adapted.stages[row.stage].blocks
        with torch.autocast("cpu", torch.bfloat16):
            output = patched(model, blocks, row.path, inputs)
            intact = patched(model, blocks, tuple(range(len(blocks))), inputs)
        predicted = intact.float().argmax(1)
        assert row.value == pytest.approx(F.cross_entropy(output.float(), predicted).item(), rel=1e-6)


def test_bf16_is_refused_where_it_would_not_be_used(tmp_path, capsys):
    net, batches = measurable()
    with pytest.raises(InputError, match="'half' is unknown; use 'weights' or 'bf16'"):
        measure(net, batches, precision="half")
    with pytest.raises(InputError, match="is for weights in single precision; StagedModel has torch.float64"):
        measure(net.double(), batches, precision="bf16")
    assert "--precision bf16 is for measure" in refused(capsys, "plan", str(tmp_path), "--precision", "bf16")


@pytest.mark.parametrize("channels", [1, 3])
def test_measuring_with_channels_last_is_that_of_batches_in_it_and_differs_by_rounding(channels):
    net, batches = measurable(channels=channels)
    places = {name: (value.stride(), value.data_ptr()) for name, value in net.state_dict().items()}
    report = measure(net, batches, resamples=0, memory_format="channels_last")
    with pytest.raises(InputError, match="batch 1 has NaN"):
        measure(net, [batches[0], (batches[0][0] / 0 * 0, None)], resamples=0, memory_format="channels_last")
    assert {name: (value.stride(), value.data_ptr()) for name, value in net.state_dict().items()} == places
    assert all(images.is_contiguous() for images, _ in batches), "the user's batches"
    arranged = [(images.to(memory_format=torch.channels_last), targets) for images, targets in batches]
    expected = measure(copy.deepcopy(net).to(memory_format=torch.channels_last), arranged, resamples=0)
    pd.testing.assert_frame_equal(report.curves, expected.curves, check_exact=True)
    assert report.options == {**expected.options, "memory_format": "channels_last"}
    seen = []
    net.head.register_forward_pre_hook(lambda _, given: seen.append(given[0].stride()[1]))
    usual = measure(net, batches, resamples=0)
    assert set(seen) == {16}, "by default, the channels are apart by the pixels of an image"
    seen.clear()
    measure(net, batches, resamples=0, memory_format="channels_last")
    assert set(seen) == {1}, "neighbouring channels are neighbours in memory up to the head"
    for metric in ("cross_entropy", "distance"):
        found, without = (table[table.metric == metric].value for table in (report.curves, usual.curves))
        assert found.to_numpy() == pytest.approx(without.to_numpy(), rel=1e-4, abs=1e-5)
    assert report.indices.value.to_numpy() == pytest.approx(usual.indices.value.to_numpy(), abs=0.05, nan_ok=True)


def test_channels_last_is_for_images():
    model, inputs = OWN["plain"]()
    with pytest.raises(InputError, match="memory_format='channels_last' is for images"):
        measure(model, [(inputs, None)], against="predictions", memory_format="channels_last")
    with pytest.raises(InputError, match="memory_format='last' is unknown; use 'given' or 'channels_last'"):
        measure(model, [(inputs, None)], against="predictions", memory_format="last")


@pytest.mark.medium
def test_the_command_line_measures_a_run_in_bf16(tmp_path, capsys):
    complete(replace(TINY, precision="float32", epochs=1), tmp_path / "run")
    words = ["--precision", "bf16", "--memory-format", "channels_last", "--resamples", "0"]
    assert main(["measure", str(tmp_path / "run"), *words]) == 0
    assert "multiplied in bfloat16" in " ".join(capsys.readouterr().out.split())
    network, dataset, _ = open_run(tmp_path / "run")
    batches = dataset.batches(dataset.test, 64)
    expected = measure(network, batches, resamples=0, precision="bf16", memory_format="channels_last")
    found = Report.load(tmp_path / "run" / "report-labels.parquet")
    pd.testing.assert_frame_equal(found.curves, expected.curves)
    assert found.options["precision"] == "bf16" and found.options["memory_format"] == "channels_last"
