import copy
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import iterconv as ic
from iterconv import paths


def make_net(residual="ordinary", init="independent", classes=10, stages=2, blocks=3):
    torch.manual_seed(0)
    net = ic.models.resnet(4, blocks, stages, in_channels=1, residual=residual, init=init, classes=classes)
    for _ in range(5):
        net(torch.randn(32, 1, 8, 8))
    return net.eval()


def make_batches(net, n=60, size=25, noise=0.2, seed=1):
    """Images with the net's own labels, some of them wrong, in batches of which the last is smaller."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    with torch.no_grad():
        labels = net(images).argmax(1)
    wrong = torch.rand(n, generator=generator) < noise
    labels = torch.where(wrong, torch.randint(10, (n,), generator=generator), labels)
    return list(zip(images.split(size), labels.split(size), strict=True))


def naive(net, batches, stage, path, against):
    """Mean error, disagreement, cross-entropy and distance of one path, by itself."""
    errors, disagreements, entropies, distances = [], [], [], []
    full = tuple(range(len(net.stages[0].blocks)))
    with torch.no_grad():
        for images, labels in batches:

            def run(perturbed, images=images):
                z = net.stem(images)
                for number in range(len(net.stages)):
                    entered = z = net.transitions[number - 1](z) if number else z
                    for block in perturbed if number == stage else full:
                        made, size = net.stages[number].step(block, z, entered), getattr(block, "size", 1)
                        z = made if size == 1 else z + size * (made - z)
                    if number == stage:
                        kept = z
                return kept, net.head(z)

            z, output = run(path)
            intact, expected = run(full)
            targets = labels if against == "labels" else expected.argmax(1)
            errors += (output.argmax(1) != targets).tolist()
            disagreements += (output.argmax(1) != expected.argmax(1)).tolist()
            entropies += F.cross_entropy(output, targets, reduction="none").tolist()
            distances += (z - intact).flatten(1).norm(dim=1).tolist()
    return {
        "error": np.mean(errors),
        "disagreement": np.mean(disagreements),
        "cross_entropy": np.mean(entropies),
        "distance": np.mean(distances),
    }


@pytest.mark.parametrize(
    "residual, against",
    [("ordinary", "labels"), ("ordinary", "predictions"), ("improper", "labels"), ("proper", "predictions")],
)
def test_every_row_equals_a_naive_evaluation(residual, against):
    net = make_net(residual)
    batches = make_batches(net)
    report = ic.measure(net, batches, against=against, extra_evaluations=4, resamples=0)
    assert len(report.curves) == 2 * (3 + 3 + 5) * 4
    for (stage, path), rows in report.curves.groupby(["stage", "path"]):
        expected = naive(net, batches, stage, path, against)
        for row in rows.itertuples():
            assert row.value == pytest.approx(expected[row.metric], rel=1e-6, abs=1e-6), (stage, path, row.metric)
            assert row.n == 60
    paths_of = report.curves.drop_duplicates(["stage", "perturbation", "position"])
    assert paths_of[paths_of.perturbation == "drop-out"].path.tolist() == [(1, 2), (0, 2), (0, 1)] * 2


def test_indices_are_made_of_the_curves():
    net = make_net()
    report = ic.measure(net, make_batches(net), resamples=10)
    errors = report.curves[report.curves.metric == "error"].set_index(["stage", "perturbation"])["value"]
    indices = report.indices.set_index(["stage", "index"])["value"]
    for stage in (0, 1):
        early, dropped, extra = (
            errors[stage, family].to_numpy() for family in ("early read-out", "drop-out", "extra evaluation")
        )
        assert indices[stage, "convergence"] == pytest.approx((0.9 - early[:-1].mean()) / (0.9 - early[-1]))
        expected = 1 - (dropped[:-1] - dropped[-1]).mean() / (0.9 - dropped[-1])
        assert indices[stage, "recurrence"] == pytest.approx(expected)
        assert indices[stage, "divergence"] == pytest.approx((extra[1:] - extra[0]).mean() / (0.9 - extra[0]))
        assert early[-1] == extra[0] and dropped[-1] == early[-2]
    for name in ("convergence", "recurrence", "divergence"):
        assert indices["mean", name] == pytest.approx((indices[0, name] + indices[1, name]) / 2)


def test_blocks_that_do_nothing_converge_at_once_and_stay():
    net = make_net()
    for stage in net.stages:
        for block in stage.blocks:
            nn.init.zeros_(block.conv2.weight)
    report = ic.measure(net, make_batches(net))
    values = report.indices.groupby("index")["value"].unique()
    assert [values[name].tolist() for name in ("convergence", "recurrence", "divergence")] == [[1.0], [1.0], [0.0]]
    assert (report.curves[report.curves.metric == "distance"].value == 0).all()


def test_a_tied_properly_convergent_stage_at_its_fixed_point_does_not_diverge():
    net = make_net("proper", "recurrent", stages=1)
    with torch.no_grad():
        for block in net.stages[0].blocks:
            block.load_state_dict(net.stages[0].blocks[0].state_dict())
    report = ic.measure(net, make_batches(net, noise=0.0), extra_evaluations=40)
    distances = report.curves.query("metric == 'distance' and perturbation == 'extra evaluation'").value.to_numpy()
    assert abs(distances[40] - distances[39]) < 1e-4 * distances[1] + 1e-6, "it settles"
    assert abs(report.indices.set_index("index").value["divergence"].iloc[0]) < 0.2


def test_against_its_own_predictions_the_intact_model_makes_no_error():
    net = make_net()
    report = ic.measure(net, make_batches(net), against="predictions")
    intact = report.curves.query("metric == 'error' and perturbation == 'extra evaluation' and position == 0")
    assert (intact.value == 0).all() and (intact.high == 0).all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_class_numbers_of_any_integer_type_do(dtype):
    net = make_net()
    batches = make_batches(net)
    short = {"extra_evaluations": 1, "resamples": 0}
    found = ic.measure(net, [(images, labels.to(dtype)) for images, labels in batches], **short)
    pd.testing.assert_frame_equal(found.curves, ic.measure(net, batches, **short).curves)
    with pytest.raises(ic.InputError, match="neither class numbers nor 0/1 rows"):
        ic.measure(net, [(images, labels > 3) for images, labels in batches])


@pytest.mark.medium
def test_further_families_equal_a_naive_evaluation(tmp_path):
    net = make_net()
    batches = make_batches(net)
    further = list(ic.paths.FAMILIES)[3:]
    report = ic.measure(net, batches, families=further, extra_evaluations=1, resamples=5)
    errors = report.curves[report.curves.metric == "error"]
    assert set(errors.perturbation) == set(ic.paths.FAMILIES)
    for row in errors[errors.perturbation.isin(further)].drop_duplicates(["stage", "path"]).itertuples():
        assert row.value == pytest.approx(naive(net, batches, row.stage, row.path, "labels")["error"])
    plain = ic.measure(net, batches, extra_evaluations=1, resamples=5)
    pd.testing.assert_frame_equal(plain.indices[["value"]], report.indices[["value"]])
    report.plot(tmp_path / "all.png")
    for wrong in (["repetitions"], "swap", ["swap", 5]):
        with pytest.raises(ic.InputError, match="is unknown; use a list of 'early read-out', .*'repetition'"):
            ic.measure(net, batches, families=wrong)


@pytest.mark.extended
@pytest.mark.medium
def test_batching_does_not_matter():
    net = make_net()
    whole = ic.measure(net, make_batches(net, size=60), resamples=50)
    for size in (1, 7, 59):
        parts = ic.measure(net, make_batches(net, size=size), resamples=50)
        pd.testing.assert_frame_equal(parts.curves, whole.curves, rtol=1e-4, atol=1e-5)
        pd.testing.assert_frame_equal(parts.indices, whole.indices, rtol=1e-4, atol=1e-5)


def test_bootstrap_intervals_are_seeded_and_as_wide_as_theory_has_them():
    net = make_net()
    batches = make_batches(net, n=400, size=400)
    report, again = (ic.measure(net, batches, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(report.curves, again.curves)
    other = ic.measure(net, batches, seed=4)
    assert not report.curves.low.equals(other.curves.low) and report.curves.value.equals(other.curves.value)
    row = report.curves.query("metric == 'error' and perturbation == 'extra evaluation' and position == 0").iloc[0]
    half = 1.96 * (row.value * (1 - row.value) / 400) ** 0.5
    assert row.low == pytest.approx(row.value - half, abs=0.01) and row.high == pytest.approx(
        row.value + half, abs=0.01
    )
    assert (report.curves.low <= report.curves.value + 1e-9).all() and (
        report.curves.value <= report.curves.high + 1e-9
    ).all()
    none = ic.measure(net, batches, resamples=0)
    assert none.curves.low.isna().all() and none.indices.low.isna().all() and none.indices.defined.all()
    assert (report.indices.low < report.indices.high).any()


def test_several_labels_are_measured_against_their_chance():
    net = make_net()
    images = torch.randn(40, 1, 8, 8)
    with torch.no_grad():
        targets = (net(images).argsort(1).argsort(1) >= 7).float()
    report = ic.measure(net, [(images, targets)])
    assert report.options["chance"] == pytest.approx(0.7)
    intact = report.curves.query("metric == 'error' and perturbation == 'extra evaluation' and position == 0")
    assert (intact.value == 0).all() and report.indices.defined.all()
    assert (ic.measure(net, [(images, targets)], against="predictions").curves.value.notna()).all()


def test_a_model_at_chance_has_undefined_indices_with_reasons():
    net = make_net()
    report = ic.measure(net, [(torch.randn(200, 1, 8, 8), torch.arange(200) % 10)])
    undefined = report.indices[~report.indices.defined]
    assert len(undefined) >= 3 and undefined[["value", "low", "high"]].isna().all(axis=None)
    assert undefined.reason.str.contains("chance").all()
    assert report.indices[report.indices.defined].reason.eq("").all()
    mean = report.indices[report.indices.stage == "mean"].set_index("index").reason
    assert "stage 1" in mean["convergence"]


def test_one_block_has_no_convergence_to_speak_of():
    net = make_net(blocks=1)
    indices = ic.measure(net, make_batches(net, noise=0)).indices.set_index(["stage", "index"])
    assert "too few blocks" in indices.reason[0, "convergence"] and indices.defined[0, "divergence"]


def test_an_explosion_counts_as_guessing():
    class Exploding(nn.Module):
        def forward(self, z):
            return z * 1e30

    model = ic.StagedModel(nn.Flatten(), [ic.Stage([Exploding()])], [], nn.Identity())
    images = torch.rand(20, 10)
    report = ic.measure(model, [(images, images.argmax(1))])
    values = report.curves.query("metric == 'error' and perturbation == 'extra evaluation'").value.tolist()
    assert values[0] == 0 and values[3:] == pytest.approx([0.9] * 14)
    assert report.curves.query("metric == 'distance' and position == 5").low.isna().all()


def test_trap_7_measuring_changes_nothing_also_when_it_fails():
    for residual in ("ordinary", "proper"):
        net = make_net(residual)
        batches = make_batches(net)
        wrong = (torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 99]))
        net.train()
        net.stages[1].blocks[0].eval()
        before, modes, state = (
            copy.deepcopy(net.state_dict()),
            [m.training for m in net.modules()],
            torch.get_rng_state(),
        )
        ic.measure(net, batches)
        with pytest.raises(ic.InputError):
            ic.measure(net, [*batches, wrong])
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
        assert [m.training for m in net.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in net.parameters())


def test_progress_counts_examples():
    net, seen = make_net(), []
    ic.measure(net, make_batches(net), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(25, None), (50, None), (60, None)]


def test_the_report_says_how_it_came_about():
    net = make_net()
    options = ic.measure(net, make_batches(net), seed=5).options
    assert (options["examples"], options["chance"], options["seed"]) == (60, pytest.approx(0.9), 5)
    full = ((0, 1, 2),) * 2
    routes = [full] + [
        (*full[:s], p.path, *full[s + 1 :])
        for s in range(2)
        for p in [*paths.early_readouts(3), *paths.dropouts(3), *paths.extra_evaluations(3)]
    ]
    assert options["block_applications"] == paths.block_applications(routes)


GOOD = (torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    "batches, says",
    [
        ([], "no batches"),
        ([(GOOD[0], torch.tensor([0, 1, 2, 10]))], "label 10 is out of range: the model has 10 outputs"),
        ([(GOOD[0], torch.tensor([0, 1, 2, -1]))], "label -1 is out of range"),
        ([(GOOD[0] * float("nan"), GOOD[1])], "batch 0 has NaN or infinite inputs"),
        ([GOOD, (GOOD[0], GOOD[1][:3])], "batch 1 has 4 inputs and 3 targets"),
        ([GOOD[0]], "batch 0 is a Tensor, not a pair"),
        ([(GOOD[0], [0, 0, 0, 0])], "targets of type list"),
        ([(GOOD[0][:0], GOOD[1][:0])], "batch 0 is empty"),
        ([(GOOD[0], GOOD[1].float())], "neither class numbers nor 0/1 rows"),
        ([(GOOD[0], torch.zeros(4, 9))], "must be 0/1 rows of 10"),
        ([(GOOD[0], torch.full((4, 10), 0.5))], "must be 0/1 rows of 10"),
    ],
)
def test_wrong_batches_are_refused(batches, says):
    with pytest.raises(ic.InputError, match=says) as error:
        ic.measure(make_net(), batches)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"against": "truth"}, "against='truth'"),
        ({"extra_evaluations": 0}, "extra_evaluations=0"),
        ({"chance": 1.5}, "chance=1.5"),
        ({"min_margin": -0.1}, "min_margin=-0.1"),
        ({"resamples": -1}, "resamples=-1"),
        ({"confidence": 1.0}, "confidence=1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(ic.InputError, match=says):
        ic.measure(make_net(), [GOOD], **options)


def test_wrong_models_are_refused():
    with pytest.raises(ic.InputError, match="Linear rejects the batch"):
        ic.measure(nn.Linear(2, 2), [GOOD])
    with pytest.raises(ic.InputError, match="StagedModel rejects the batch"):  # only the second one
        ic.measure(make_net(), [GOOD, (torch.randn(4, 2, 8, 8), GOOD[1])])
    with pytest.raises(ic.InputError, match=r"batches is a Tensor; pass an iterable of \(inputs, targets\)"):
        ic.measure(make_net(), GOOD[0])
    with pytest.raises(ic.InputError, match="Linear has no run of two or more residual blocks"):
        ic.measure(nn.Linear(8, 2), [GOOD])
    with pytest.raises(ic.InputError, match="str has no stem"):
        ic.measure("resnet50", [GOOD])
    net = make_net()
    nn.init.constant_(net.head.linear.bias, float("nan"))
    with pytest.raises(ic.InputError, match="unperturbed model's output for batch 0 has NaN"):
        ic.measure(net, [GOOD])
    flat = ic.StagedModel(nn.Identity(), [ic.Stage([nn.ReLU()])], [], nn.Identity())
    with pytest.raises(ic.InputError, match=r"output is \(4, 1, 8, 8\); measuring needs"):
        ic.measure(flat, [GOOD])


@pytest.mark.extended
def test_memory_does_not_grow_with_the_number_of_batches():
    program = """
        import resource, sys, torch, iterconv
        torch.manual_seed(0)
        net = iterconv.models.resnet(16, 8, 1, 1, 10).to(memory_format=torch.channels_last)
        batch = torch.randn(256, 1, 28, 28), torch.zeros(256, dtype=torch.long)
        iterconv.measure(net, [batch] * int(sys.argv[1]), resamples=0)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    few, many = (int(subprocess.run([*command, str(n)], check=True, capture_output=True).stdout) for n in (1, 6))
    assert many - few < 600_000, "kilobytes; with small arrays between activations it was 1,200,000 to 1,400,000"
