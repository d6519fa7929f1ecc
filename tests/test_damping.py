"""Damped steps: closed forms of linear blocks, a naive execution of paths, and sweeps over the part of a step."""

import copy
import itertools
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import iterconv as ic
from commands import refused
from dynamics import Affine, iterated, rotation, states
from iterconv import paths
from iterconv.cli.main import main
from iterconv.paths.damping import from_plain_path, show_path, to_plain_paths

EYE = torch.eye(2, dtype=torch.float64)
SKEW = torch.tensor([[1.0, 7.0], [0.0, 1.0]], dtype=torch.float64)


def alone(net, route, inputs):
    """One route by itself, with nothing but the contract and the definition of a damped step."""
    z = net.stem(inputs)
    for number, path in enumerate(route):
        z = net.transitions[number - 1](z) if number else z
        entered = z
        for block, size in path:
            made = net.stages[number].step(block, z, entered)
            z = made if size == 1 else z + size * (made - z)
    return net.head(z)


def test_any_damped_routes_are_evaluated_as_alone():
    torch.manual_seed(0)
    net, inputs = ic.models.resnet(3, 3, 2, in_channels=1).eval(), torch.randn(2, 1, 8, 8)
    generator = np.random.default_rng(0)
    plain = [
        tuple(
            tuple((int(generator.integers(3)), float(generator.choice([1, 0.5, 0.25]))) for _ in range(length))
            for length in generator.integers(0, 5, 2)
        )
        for _ in range(60)
    ]
    plain += [((*one[0], *one[0]), one[1]) for one in plain[:10]]  # longer ones with a common beginning
    routes = {tuple(tuple(paths.damped(*part) for part in path) for path in route): route for route in plain}
    with torch.no_grad():
        found = dict(paths.evaluate(net, list(routes), inputs))
        assert len(found) == len(routes)
        for route, outcome in found.items():
            assert torch.equal(outcome.output, alone(net, routes[route], inputs)), route
    beginnings = {
        (route[:stage], route[stage][: place + 1])
        for route in plain
        for stage, path in enumerate(route)
        for place in range(len(path))
    }
    assert paths.block_applications(routes) == len(beginnings)


@pytest.mark.parametrize("size", [0.25, 0.7, 1.5])
def test_a_damped_step_of_a_matrix_is_a_matrix(size):
    matrix, shift = torch.randn(2, 2, generator=torch.Generator().manual_seed(1)).double(), 0.3
    net, (z, _) = iterated(Affine(matrix, shift)), states()
    route = ((0, *[paths.damped(0, size)] * 5),)
    with torch.no_grad():
        [(_, found)] = paths.evaluate(net, [route], z)
        step, moved = EYE + size * (matrix - EYE), z @ matrix.T + shift
        for _ in range(5):
            moved = moved @ step.T + size * shift
    assert torch.allclose(found.stage_outputs[0], moved, rtol=1e-12, atol=1e-12)


def test_sub_steps_of_a_linear_block_approach_the_exponential():
    branch = 0.4 * torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double()
    net, (z, _) = iterated(Affine(EYE + branch)), states()
    exact, errors = z @ torch.linalg.matrix_exp(branch).T, []
    for count in (1, 2, 4, 8, 16, 32):
        [perturbed] = paths.sub_steps(1, count)
        with torch.no_grad():
            [(_, found)] = paths.evaluate(net, [(perturbed.path,)], z)
        power = torch.linalg.matrix_power(EYE + branch / count, count)
        assert torch.allclose(found.stage_outputs[0], z @ power.T, rtol=1e-12)
        errors.append(float((found.stage_outputs[0] - exact).norm()))
    assert all(1.7 < a / b < 2.3 for a, b in itertools.pairwise(errors[2:])), "Euler's error falls as the step"


def test_families_of_damped_paths():
    assert [p.path for p in paths.sub_steps(2)] == [
        (paths.damped(0, 0.5), paths.damped(0, 0.5), 1),
        (0, paths.damped(1, 0.5), paths.damped(1, 0.5)),
    ]
    assert [p.path for p in paths.scaled_repetitions(1, 4)] == [(paths.damped(0, 0.5),) * 4]
    assert [p.path for p in paths.sub_steps(2, 1)] == [(0, 1), (0, 1)]


def test_a_damped_block_is_a_number_of_its_own():
    half, whole = paths.damped(2, 0.5), paths.damped(2, 1)
    assert type(whole) is int and whole == 2 and [10, 11, 12][half] == 12
    assert half != 2 and not half == 2 and half != paths.damped(2, 0.25) and half == paths.damped(2, 0.5)
    assert len({half, whole, paths.damped(2, 0.5), paths.damped(1, 0.5)}) == 3
    mixed = [paths.damped(b, a) for b in (0, 1, 2) for a in (0.25, 0.5, 1, 1.5)]
    for shuffled in (mixed[::-1], mixed[1::2] + mixed[::2]):
        assert [repr(block) for block in sorted(shuffled)] == [repr(block) for block in mixed]
    for same in (copy.deepcopy(half), pickle.loads(pickle.dumps(half))):
        assert same == half and same.size == 0.5


def test_paths_are_written_and_read():
    third = paths.damped(1, 1 / 3)
    for path in ((0, 1, 2), (0, third, 2), ()):
        [plain] = to_plain_paths([path])
        assert from_plain_path(json.loads(json.dumps(plain))) == path
    assert to_plain_paths([(0, 1), (1, third)])[0] == ["0", "1"], "a column of a file has one type"
    assert show_path((0, paths.damped(1, 0.5), 11)) == "1 2*0.5 12"


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf"), "half", True])
def test_sizes_that_are_none(size):
    with pytest.raises(ic.InputError, match="size="):
        paths.damped(0, size)
    with pytest.raises(ic.InputError, match="block=-1 is too small"):
        paths.damped(-1, 0.5)


class Foreign(nn.Module):
    """A model that knows nothing of stages; ``skip`` adds what its first block made to the end, past the others."""

    def __init__(self, skip=False):
        super().__init__()
        self.stem, self.head, self.skip = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3), skip
        self.blocks = nn.ModuleList(Branch() for _ in range(4))

    def forward(self, x):
        z = first = self.stem(x)
        for number, block in enumerate(self.blocks):
            z = block(z)
            first = z if number == 0 else first
        return self.head((z + first if self.skip else z).mean((2, 3)))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, z):
        return z + torch.relu(self.conv(self.norm(z)))


@pytest.mark.parametrize("size", [0.3, 1.4])
def test_a_foreign_model_gives_the_bits_of_a_pass_with_damped_blocks(size):
    torch.manual_seed(0)
    model, x = Foreign().eval(), torch.randn(5, 1, 6, 6)
    adapted = ic.adapt(model, x)
    part, again = paths.damped(1, size), paths.damped(3, size)
    with torch.no_grad():
        found = dict(paths.evaluate(adapted, [((0, 1, 2, 3),), ((0, part, 2, 3),), ((0, part, 2, 3, again),)], x))

        def damped_pass(*numbers):
            mine = copy.deepcopy(model)
            for number, repeats in numbers:
                block, whole = mine.blocks[number], number == 3
                original = block.forward

                def forward(z, original=original, repeats=repeats, whole=whole):
                    z = original(z) if whole else z
                    for _ in range(repeats):
                        z = z + size * (original(z) - z)
                    return z

                block.forward = forward
            return mine(x)

        assert torch.equal(found[((0, 1, 2, 3),)].output, model(x))
        assert torch.equal(found[((0, part, 2, 3),)].output, damped_pass((1, 1)))
        assert torch.equal(found[((0, part, 2, 3, again),)].output, damped_pass((1, 1), (3, 1)))


def test_damping_is_refused_where_paths_are_passes_of_the_whole_model():
    torch.manual_seed(0)
    model, x = Foreign(skip=True).eval(), torch.randn(5, 1, 6, 6)
    adapted = ic.adapt(model, x)
    assert not adapted.stages[0].shared
    with pytest.raises(ic.InputError, match=r"route \(\(0, 1\*0.5, 2, 3\),\) damps blocks of a model"):
        list(paths.evaluate(adapted, [((0, paths.damped(1, 0.5), 2, 3),)], x))
    batch = (x, torch.arange(5) % 3)
    with pytest.raises(ic.InputError, match=r"damping=0.5 needs blocks that can be run by themselves"):
        ic.settle(adapted, [batch], steps=4, damping=0.5)
    assert ic.settle(adapted, [batch], steps=4, growth=False).options["damping"] == 1


OVERSHOOT = torch.tensor([-1.4, 0.2], dtype=torch.float64)
SYSTEMS = {  # matrix, shift, verdicts at a = 0.25, 0.5 and 1
    "contraction": (0.5 * EYE, 1.0, ("settles", "settles", "settles")),
    "overshooting": (SKEW @ torch.diag(OVERSHOOT) @ SKEW.inverse(), 1.0, ("settles", "settles", "diverges")),
    "rotation": (rotation(1.0), 0.5, ("settles", "settles", "cycles")),
    "far overshooting": (-5.0 * EYE, 1.0, ("settles", "diverges", "diverges")),
    "running away": (1.2 * EYE, 0.5, ("diverges", "diverges", "diverges")),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_sweep_finds_the_parts_at_which_an_affine_map_settles(name):
    matrix, shift, verdicts = SYSTEMS[name]
    parts = (0.25, 0.5, 1.0)
    measured = name == "overshooting"  # growth rates take most of the time
    found = ic.sweep_damping(
        iterated(Affine(matrix, shift)), iter([states(4)]), parts, growth=measured, steps=30 if measured else 80
    )
    assert found.options["damping"] == list(parts) and len(found.examples) == 3 * 4
    for part, verdict, row in zip(parts, verdicts, found.table.itertuples(), strict=True):
        own = found.examples[found.examples.damping == part]
        assert set(own.verdict) == {verdict} and found.verdicts.loc[part, verdict] == 1
        assert row.damping == part and row.settles == (verdict == "settles")
        if measured:
            radius = float(torch.linalg.eigvals(EYE + part * (matrix - EYE)).abs().max())
            growth = found.steps[found.steps.damping == part].growth.dropna()
            assert growth.iloc[-1] == pytest.approx(radius, rel=0.01)


def test_a_sweep_holds_what_settle_finds():
    net = iterated(Affine(SYSTEMS["overshooting"][0], 1.0))
    found = ic.sweep_damping(net, [states()], (0.5, 1), steps=12)
    for part in (0.5, 1):
        single = ic.settle(net, [states()], steps=12, damping=part)
        for name in ("steps", "examples"):
            own = getattr(found, name)
            own = own[own.damping == part].drop(columns="damping").reset_index(drop=True)
            pd.testing.assert_frame_equal(own, getattr(single, name))


def test_a_span_is_damped_as_a_whole_and_step_0_is_the_ordinary_pass():
    torch.manual_seed(0)
    net = ic.models.resnet(3, 3, 2, in_channels=1).double().eval()
    x, y = torch.randn(6, 1, 8, 8).double(), torch.arange(6)
    found = ic.settle(net, [(x, y)], span=(0, 2), steps=4, damping=0.3, growth=False)
    first = net.stages[0].blocks
    with torch.no_grad():
        z = made = first[1](first[0](net.stem(x)))
        losses = []
        for step in range(5):
            if step:
                made = first[1](first[0](z))
                before, z = z, z + 0.3 * (made - z)
            logits = net.head(net.stages[1](net.transitions[0](first[2](z))))
            losses.append(float(nn.functional.cross_entropy(logits, y)))
    assert found.steps.cross_entropy.to_numpy() == pytest.approx(losses, rel=1e-6)
    residual = (z - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    assert found.steps.residual.iloc[-1] == pytest.approx(float(residual.quantile(0.5)), rel=1e-6)


def test_a_sweep_is_saved_drawn_and_checked(tmp_path):
    net = iterated(Affine(-1.1 * EYE, 1.0))
    found = ic.sweep_damping(net, [states()], (0.5, 1), steps=8)
    for name in ("sweep.json", "sweep.parquet"):
        found.save(tmp_path / name)
        again = ic.DampingSweep.load(tmp_path / name)
        pd.testing.assert_frame_equal(again.table, found.table)
        pd.testing.assert_frame_equal(again.examples, found.examples)
    found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    for wrong, message in (((), "is no list"), (0.5, "is no list"), ((1, 1), "twice"), ((0.5, 0), "not in")):
        with pytest.raises(ic.InputError, match=message):
            ic.sweep_damping(net, [states()], wrong)
    with pytest.raises(ic.InputError, match="damping=0 is not in"):
        ic.settle(net, [states()], damping=0)


def test_families_are_measured_and_kept_in_files(tmp_path):
    torch.manual_seed(0)
    net = ic.models.resnet(3, 2, 1, in_channels=1).eval()
    batch = (torch.randn(12, 1, 8, 8), torch.arange(12) % 10)
    report = ic.measure(net, [batch], families=["sub-steps", "scaled repetition"], extra_evaluations=1, resamples=0)
    curve = report.curves[(report.curves.perturbation == "sub-steps") & (report.curves.metric == "cross_entropy")]
    with torch.no_grad():
        for row in curve.itertuples():
            route = [[(block, 1.0)] if block != row.position - 1 else [(block, 0.5)] * 2 for block in (0, 1)]
            logits = alone(net, [sum(route, [])], batch[0])
            assert row.value == pytest.approx(float(nn.functional.cross_entropy(logits, batch[1])), rel=1e-6)
    for name in ("report.json", "report.parquet"):
        report.save(tmp_path / name)
        pd.testing.assert_frame_equal(ic.Report.load(tmp_path / name).curves, report.curves)


MODULE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(8, 8)

    def forward(self, z):
        return z + self.branch(z)

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), *(Block() for _ in range(3)), nn.Linear(8, 10))
"""


@pytest.mark.medium
def test_the_command_sweeps(tmp_path, monkeypatch, capsys):
    (tmp_path / "damped_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["settle", "damped_own:net", "--data", "digits", "--examples", "30", "--steps", "8", "--no-growth"]
    assert main([*words, "--damping", "0.25", "1"]) == 0
    printed = capsys.readouterr().out
    assert "shares of 30 examples, by the part of each step that is taken" in printed
    found = ic.DampingSweep.load("damped_own-net-damping-labels.parquet")
    assert found.table.damping.tolist() == [0.25, 1.0]
    assert "--damping 0.0 is not in (0, inf)" in refused(capsys, *words, "--damping", "0.5", "0")
    assert "names a part twice" in refused(capsys, *words, "--damping", "1", "1")
