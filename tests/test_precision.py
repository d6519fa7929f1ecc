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

from iterconv import measure, models
from iterconv.errors import InputError
from iterconv.measuring.report import Report
from iterconv.training.config import RunConfig
from iterconv.training.run import complete, open_run
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
