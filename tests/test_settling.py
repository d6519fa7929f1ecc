"""States that settle, cycle, drift, diverge or never move: closed forms, and a naive evaluation of every column."""

import copy
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

import iterconv as ic
from dynamics import Affine, iterated, rotation, states
from iterconv.settling.growth import derivative, largest_modulus
from iterconv.settling.settling import choose_read_outs
from own_models import OWN

EYE = torch.eye(2, dtype=torch.float64)
SKEW = torch.tensor([[1.0, 7.0], [0.0, 1.0]], dtype=torch.float64)


def similar(matrix):
    """A matrix of the same eigenvalues that is far from normal."""
    return SKEW @ matrix @ SKEW.inverse()


SYSTEMS = {  # matrix, shift, verdict, spectral radius, converges
    "contraction": (0.9 * EYE, 0.0, "settles", 0.9, True),
    "affine contraction": (similar(torch.diag(torch.tensor([0.8, -0.3]).double())), 2.0, "settles", 0.8, True),
    "contracting spiral": (similar(rotation(1.0, 0.9)), 1.0, "settles", 0.9, True),
    "contraction that flips": (-0.9 * EYE, 1.0, "settles", 0.9, True),
    "rotation": (rotation(1.0), 0.0, "cycles", 1.0, False),
    "rotation of period 7": (rotation(2 * math.pi / 7), 0.0, "cycles", 1.0, False),
    "skewed rotation": (similar(rotation(1.0)), 0.0, "cycles", 1.0, False),
    "cycle of two": (-EYE, 3.0, "cycles", 1.0, False),
    "shift": (EYE, 0.5, "drifts", 1.0, False),
    "expansion": (1.1 * EYE, 0.0, "diverges", 1.1, False),
    "expansion from a fixed point": (1.05 * EYE, -0.01, "diverges", 1.05, False),
    "expanding spiral": (similar(rotation(2.0, 1.05)), 0.0, "diverges", 1.05, False),
    "expansion that flips": (-1.1 * EYE, 1.0, "diverges", 1.1, False),
    "overflow": (1e6 * EYE, 0.0, "diverges", 1e6, False),
    "identity": (EYE, 0.0, "idle", 1.0, True),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_verdicts_and_growth_rates_of_closed_forms(name):
    matrix, shift, verdict, radius, converges = SYSTEMS[name]
    found = ic.settle(iterated(Affine(matrix, shift)), [states()])
    assert set(found.examples.verdict) == {verdict}
    assert found.examples.converges.tolist() == [converges] * 12
    growth = found.steps.growth[found.steps.finite == 1]
    assert growth.iloc[-1] == pytest.approx(radius, rel=0.01)
    assert (growth - radius).abs().max() < 0.01 * radius, "also from the first step on, for matrices of 2 x 2"
    periods = {"rotation of period 7": 7, "cycle of two": 2}
    if name != "skewed rotation":  # which comes back to its slowest places nearly
        assert set(found.examples.period) == {periods.get(name, 0)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [0.8, 1.02])
def test_growth_of_random_matrices_is_their_spectral_radius(seed, radius):
    """Eight dimensions, not normal, with real or complex leading eigenvalues."""
    matrix = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix *= radius / torch.linalg.eigvals(matrix).abs().max()
    batch = states(width=8)
    found = ic.settle(iterated(Affine(matrix)), [batch], steps=400)
    assert found.steps.growth.iloc[-1] == pytest.approx(radius, rel=0.01)
    power = np.linalg.matrix_power(matrix.numpy(), 400)
    assert math.log(np.linalg.norm(power, 2)) / 400 == pytest.approx(found.examples.exponent.median(), abs=0.02)
    assert found.examples.exponent.median() == pytest.approx(math.log(radius), abs=0.02)


def test_the_largest_modulus_is_that_of_two_eigenvalues():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(50, 2, 2, generator=generator, dtype=torch.float64)
    w0 = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    w1 = torch.einsum("nij,nj->ni", matrices, w0)
    w2 = torch.einsum("nij,nj->ni", matrices, w1)
    expected = torch.linalg.eigvals(matrices).abs().amax(1)
    assert torch.allclose(largest_modulus(w0, w1, w2), expected, rtol=1e-6)
    zeros = torch.zeros(2, 2)
    assert torch.equal(largest_modulus(torch.ones(2, 2), zeros, zeros), torch.zeros(2).double())
    assert largest_modulus(torch.ones(2, 2), zeros / 0, zeros).isnan().all()


def test_a_derivative_is_the_difference_quotient():
    net = make_net().double()
    z, v = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = net.stages[0].blocks[0]
    with torch.no_grad():
        exact, quotient = derivative(block, z, v), (block(z + 1e-6 * v) - block(z - 1e-6 * v)) / 2e-6
    assert torch.allclose(exact, quotient, atol=1e-6)


def test_a_block_that_forgets_its_input_does_not_grow():
    found = ic.settle(iterated(Affine(0 * EYE, 2.0)), [states()])
    assert (found.steps.growth == 0).all() and (found.examples.exponent == -math.inf).all()
    assert set(found.examples.verdict) == {"settles"} and (found.examples.settling_step == 0).all()


def test_a_state_at_its_fixed_point_from_the_start_has_settled_and_is_not_idle():
    tied = Affine(0.1 * EYE, 1.0)
    found = ic.settle(iterated(*[tied] * 30), [states()])
    assert set(found.examples.verdict) == {"settles"} and (found.examples.settling_step == 0).all()
    ordinary = [*(Affine(0.1 * EYE, 1.0) for _ in range(3)), Affine(EYE)]
    assert set(ic.settle(iterated(*ordinary), [states()]).examples.verdict) == {"idle"}


def test_the_settling_step_is_the_first_without_a_longer_step():
    found = ic.settle(iterated(Affine(0.5 * EYE)), [states()], tolerance=0.01)
    # The state is z 2^-(k + 1) after step k, and was largest at step 0, at z / 2: step k moves it by 2^-k of that.
    assert (found.examples.settling_step == 6).all()
    residual = found.steps.residual
    assert residual[1:].to_numpy() == pytest.approx(0.5), "relative to its own norm, the state never comes to rest"


class Mixed(nn.Module):
    """Every example by itself, by the sign of its first coordinate: it stays, or is squared until it overflows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, z):
        return torch.where(z[:, :1] < 0, z * 0.5, z.square() * 2) * self.weight


def test_states_that_are_not_finite_are_told_and_not_averaged():
    z = torch.tensor([[-1.0, 1.0]] * 3 + [[2.0, 2.0]]).double()
    model = iterated(Mixed())
    found = ic.settle(model, [(z, torch.zeros(4).long())], steps=50)
    assert found.examples.verdict.tolist() == ["settles"] * 3 + ["diverges"]
    assert found.steps.finite.iloc[-1] == 0.75 and found.steps.finite.iloc[0] == 1
    assert np.isfinite(found.steps[["residual", "growth", "cross_entropy", "error"]]).all().all()
    with torch.no_grad():
        alone = F.cross_entropy(model.head(torch.zeros(1, 2).double()), torch.zeros(1).long())
    assert found.steps.cross_entropy.iloc[-1] == pytest.approx(alone.item())
    assert found.steps.residual.iloc[-1] == pytest.approx(0.5)
    guess = (found.examples.right[:3].eq(False).sum() + 2 / 3) / 4
    assert found.steps.error.iloc[-1] == pytest.approx(guess), "an output that is not finite counts as a guess"
    assert not found.examples.right[3] and not found.examples.stays_right[3]


def make_net(residual="ordinary", stages=2, blocks=4):
    torch.manual_seed(0)
    net = ic.models.resnet(4, blocks, stages, in_channels=1, residual=residual)
    for _ in range(3):
        net(torch.randn(32, 1, 8, 8))
    return net.eval()


def make_batches(net, n=14, size=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    with torch.no_grad():
        labels = net(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 10
    return list(zip(images.split(size), labels.split(size), strict=True))


def naive(net, batches, stage, span, steps):
    """The states and outputs of all steps by nothing but the contract, one example at a time."""
    found = []
    with torch.no_grad():
        for images, labels in batches:
            for image, label in zip(images.split(1), labels.split(1), strict=True):
                z = net.stem(image)
                for number in range(stage + 1):
                    entered = z = net.transitions[number - 1](z) if number else z
                    if number < stage:
                        z = net.stages[number](z)
                trace = [z]
                for block in range(span[1]):
                    z = net.stages[stage].step(block, z, entered)
                    trace.append(z)
                line, outputs = [trace[span[0]], z], []
                for _ in range(steps):
                    for block in range(*span):
                        z = net.stages[stage].step(block, z, entered)
                    line.append(z)
                for z in line[1:]:
                    for block in range(span[1], len(net.stages[stage].blocks)):
                        z = net.stages[stage].step(block, z, entered)
                    for number in range(stage + 1, len(net.stages)):
                        z = net.stages[number](net.transitions[number - 1](z))
                    outputs.append(net.head(z))
                found.append(([x.flatten().double() for x in line], torch.cat(outputs), label))
    return found


@pytest.mark.parametrize(
    "residual, stage, span",
    [("ordinary", 0, None), ("ordinary", 1, (1, 3)), ("proper", 0, (2, 4)), ("improper", 1, (0, 4))],
)
def test_every_column_equals_a_naive_evaluation(residual, stage, span):
    net = make_net(residual)
    batches = [(images.double(), labels) for images, labels in make_batches(net)]
    found = ic.settle(net.double(), batches, stage=stage, span=span, steps=8, growth=False)
    lines = naive(net, batches, stage, span or (3, 4), 8)
    assert found.steps.step.tolist() == [0, 1, 2, 3, 4, 6, 8] and found.steps.growth.isna().all()
    for row in found.steps.itertuples():
        k = row.step
        outputs, labels = torch.stack([outputs[k] for _, outputs, _ in lines]), torch.cat([y for *_, y in lines])
        intact = torch.stack([outputs[0] for _, outputs, _ in lines]).argmax(1)
        assert row.error == pytest.approx((outputs.argmax(1) != labels).double().mean().item())
        assert row.agreement == pytest.approx((outputs.argmax(1) == intact).double().mean().item())
        assert row.cross_entropy == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-4)
        residuals = [float((z[k + 1] - z[k]).norm() / z[k].norm()) for z, *_ in lines]
        assert row.residual == pytest.approx(np.median(residuals), rel=1e-4, abs=1e-8)
        assert row.residual_low == pytest.approx(np.quantile(residuals, 0.25), rel=1e-4, abs=1e-8)
        if k and min(residuals) > 1e-11:
            steps = [(z[k + 1] - z[k], z[k] - z[k - 1]) for z, *_ in lines]
            angles = [math.degrees(math.acos(a @ b / a.norm() / b.norm())) for a, b in steps]
            assert row.angle == pytest.approx(np.median(angles), rel=1e-3, abs=0.02)
        assert row.finite == 1 and row.n == 14
    right = torch.stack([outputs.argmax(1) == y for _, outputs, y in lines])
    assert found.examples.right.tolist() == right[:, 8].tolist()
    assert found.examples.right_before.tolist() == right[:, 0].tolist()
    assert found.examples.stays_right.tolist() == right[:, found.steps.step.tolist()].all(1).tolist()
    assert found.examples.example.tolist() == list(range(14))


def test_steps_of_the_last_block_are_extra_evaluations():
    net = make_net()
    batches = make_batches(net)
    found = ic.settle(net, batches, stage=1, steps=16, growth=False).steps.set_index("step")
    curves = ic.measure(net, batches, resamples=0).curves.query("stage == 1 and perturbation == 'extra evaluation'")
    for metric, value in (("error", found.error), ("disagreement", 1 - found.agreement)):
        expected = curves[curves.metric == metric].set_index("position").value
        assert value.to_numpy() == pytest.approx(expected[value.index].to_numpy(), abs=1e-12)


def test_growth_of_a_network_is_the_spectral_radius_of_its_jacobian():
    torch.manual_seed(0)
    net = ic.models.resnet(2, 3, 1, in_channels=1).double().eval()
    images = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    found = ic.settle(net, [(images, torch.zeros(3).long())], steps=4, span=(1, 3))
    apply = lambda z: net.stages[0].step(2, net.stages[0].step(1, z, None), None)  # noqa: E731
    with torch.no_grad():
        z = net.stages[0](net.stem(images))
        for _ in range(4):
            z = apply(z)
    radii = []
    for own in z:
        jacobian = torch.autograd.functional.jacobian(lambda x: apply(x[None])[0], own).reshape(32, 32)
        radii.append(torch.linalg.eigvals(jacobian).abs().max().item())
    assert found.steps.growth.iloc[-1] == pytest.approx(np.median(radii), rel=0.01)


def test_batches_end_in_the_same_tables():
    net = make_net()
    batches = make_batches(net, n=14, size=5)
    whole = [tuple(map(torch.cat, zip(*batches, strict=True)))]
    # The random first directions differ, so growth is compared by closed forms only.
    apart, together = (ic.settle(net, given, steps=9, growth=False) for given in (batches, whole))
    pd.testing.assert_frame_equal(apart.steps, together.steps, rtol=1e-4)
    pd.testing.assert_frame_equal(apart.examples, together.examples)
    iterator = ic.settle(net, iter(batches), steps=9, growth=False)
    pd.testing.assert_frame_equal(apart.steps, iterator.steps)


def test_the_model_is_left_as_it_was():
    net = make_net(blocks=2)
    batches = make_batches(net)
    net.train()
    net.stages[0].blocks[0].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    random_states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    ic.settle(net, batches, steps=4)
    ic.depth(net, batches, extra_evaluations=1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert modes == [module.training for module in net.modules()]
    assert torch.equal(torch.get_rng_state(), random_states[0]) and random.getstate() == random_states[1]
    assert (np.random.get_state()[1] == random_states[2]).all()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


class Peak(TorchDispatchMode):
    """The largest number of bytes of tensors that are alive at a time."""

    def __init__(self):
        super().__init__()
        self._alive, self.peak = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._alive[tensor.untyped_storage()] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return made


@pytest.mark.parametrize("growth, short, long", [(False, 50, 500), (True, 8, 40)])
def test_memory_does_not_grow_with_steps(growth, short, long):
    model, (z, labels) = iterated(Affine(rotation(1.0))), states(600)
    batches = [(z[:400], labels[:400]), (z[400:], labels[400:])]
    peaks = []
    for steps in (short, long):
        with Peak() as tensors:
            ic.settle(model, batches, steps=steps, growth=growth)
        peaks.append(tensors.peak)
    assert peaks[0] == peaks[1] < 60 * z[:400].nbytes


def test_read_outs_are_logarithmic():
    assert choose_read_outs(200) == [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 200]
    assert choose_read_outs(4) == [0, 1, 2, 3, 4]
    assert len(choose_read_outs(100_000)) < 40


@pytest.mark.parametrize(
    "options, says",
    [
        ({"stage": 2}, "stage=2 is not there; stages are numbered from 0 to 1"),
        ({"stage": -1}, "stage=-1 is too small; use 0 or more"),
        ({"stage": True}, "stage=True is not a whole number"),
        ({"span": (2, 2)}, r"span=\(2, 2\) holds no block; use \(start, end\) with start < end"),
        ({"span": (3, 9)}, r"span=\(3, 9\) ends behind the 4 blocks of the stage; use an end up to 4"),
        ({"span": 3}, "span=3 is no span"),
        ({"span": (0.5, 2)}, "span=0.5 is not a whole number"),
        ({"steps": 3}, "steps=3 is too few to see where the state goes; use 4 or more"),
        ({"tolerance": 0}, r"tolerance=0 is not in \(0, 1\)"),
        ({"tolerance": math.nan}, "tolerance=nan is not in"),
        ({"against": "truth"}, "against='truth' is unknown; use 'labels' or 'predictions'"),
    ],
)
def test_bad_options_are_refused(options, says):
    net = make_net()
    with pytest.raises(ic.InputError, match=says):
        ic.settle(net, make_batches(net), **options)


def test_there_have_to_be_batches_and_labels():
    net = make_net()
    with pytest.raises(ic.InputError, match="there are no batches to measure on"):
        ic.settle(net, [])
    with pytest.raises(ic.InputError, match="not a pair; pass .inputs, targets., or measure with"):
        ic.settle(net, [torch.randn(4, 1, 8, 8)])
    found = ic.settle(net, [torch.randn(4, 1, 8, 8)], against="predictions", steps=4, growth=False)
    assert found.steps.error[0] == 0 and found.examples.right_before.all()


class Rounded(nn.Module):
    """A block without a derivative in forward mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, z):
        return _Plain.apply(z) * self.weight


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z * 0.5

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_blocks_without_derivatives_say_what_to_do():
    with pytest.raises(ic.InputError, match="growth rates need derivatives.*pass growth=False"):
        ic.settle(iterated(Rounded()), [states()])
    assert set(ic.settle(iterated(Rounded()), [states()], growth=False).examples.verdict) == {"settles"}


@pytest.mark.parametrize("name", ["plain", "weight_tied_loop", "reversible", "dense_head", "in_place"])
def test_foreign_models_settle_as_whole_passes_do(name):
    """Each step and read-out is compared with a pass of the whole model, whichever way the stage is run."""
    model, inputs = OWN[name]()
    adapted = ic.adapt(model, inputs)
    path = ic.paths.full_route(adapted.stages)[0]
    shared = adapted.stages[0].shared
    found = ic.settle(adapted, [inputs], against="predictions", steps=8, span=(len(path) - 2, len(path)))
    with torch.no_grad(), ic.paths.untouched(adapted):
        bound = adapted.bind(inputs)
        rest = ic.paths.full_route(adapted.stages)[1:]
        outcomes = [bound.whole((path + path[-2:] * k, *rest)) for k in range(9)]
    intact = outcomes[0].output.argmax(1)
    agreement = [(outcome.output.argmax(1) == intact).double().mean().item() for outcome in outcomes]
    assert found.steps.agreement.to_numpy() == pytest.approx(np.array(agreement)[found.steps.step])
    ends = [outcome.stage_outputs[0].flatten(1).double() for outcome in outcomes]
    for row in found.steps.iloc[1:].itertuples():
        residuals = (ends[row.step] - ends[row.step - 1]).norm(dim=1) / ends[row.step - 1].norm(dim=1)
        assert row.residual == pytest.approx(np.median(residuals.numpy()), rel=1e-4)
    assert found.options["growth"] == shared and found.steps.growth.notna().all() == shared
    assert {"plain": True, "reversible": False}.get(name, shared) == shared


class Encoder(nn.Module):
    """Attention that ignores padding, whose padded positions grow twice as fast as the others."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        z = self.embedding(input_ids)
        for layer in self.layers:
            z = layer(z, attention_mask)
        return self.head(z[:, 0])


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, z, mask):
        real = mask[..., None].to(z.dtype)
        mean = (z * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return z * (0.7 + (1 - real)) + 0.2 * torch.tanh(self.mix(mean)) * (1 + z)


def test_padding_counts_neither_in_residuals_nor_in_growth():
    torch.manual_seed(0)
    model = Encoder().double()
    ids, mask = torch.randint(20, (4, 6)), torch.ones(4, 6).long()
    padded = {"input_ids": torch.cat([ids, torch.zeros(4, 3).long()], 1), "attention_mask": mask.new_zeros(4, 9)}
    padded["attention_mask"][:, :6] = 1
    alone, more = (
        ic.settle(ic.adapt(model, batch, stages=["layers"]), [batch], against="predictions", steps=30)
        for batch in ({"input_ids": ids, "attention_mask": mask}, padded)
    )
    assert more.steps.residual.to_numpy() == pytest.approx(alone.steps.residual.to_numpy(), rel=1e-6)
    assert alone.steps.growth.iloc[-1] < 1
    assert more.steps.growth.iloc[-1] == pytest.approx(alone.steps.growth.iloc[-1], rel=0.01)
    assert more.examples.verdict.tolist() == alone.examples.verdict.tolist() == ["settles"] * 4


def test_a_result_survives_its_file(tmp_path):
    found = ic.settle(iterated(Affine(0 * EYE, 2.0), Affine(1.2 * EYE, 2.0)), [states()], steps=8)
    assert found.examples.settling_step.isna().all() and str(found.examples.settling_step.dtype) == "Int64"
    for name in ("x.json", "x.parquet"):
        found.save(tmp_path / name)
        again = ic.Settling.load(tmp_path / name)
        pd.testing.assert_frame_equal(again.steps, found.steps)
        pd.testing.assert_frame_equal(again.examples, found.examples)
        assert again.options == found.options
        with pytest.raises(ic.InputError, match="is not a readable depth curve"):
            ic.Depth.load(tmp_path / name)
    found.plot(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
    with pytest.raises(ic.InputError, match="has no known format"):
        found.save(tmp_path / "x.csv")
    with pytest.raises(ic.InputError, match="there is no settling at"):
        ic.Settling.load(tmp_path / "none.json")


def test_verdicts_are_crossed_with_right_and_wrong():
    z, _ = states(6)
    model = iterated(Affine(0.9 * EYE))
    with torch.no_grad():
        final = int(model.head(torch.zeros(1, 2).double()).argmax())
    labels = torch.tensor([final] * 4 + [(final + 1) % 3] * 2)
    found = ic.settle(model, [(z, labels)], growth=False)
    assert found.verdicts.loc["settles"].tolist() == [4, 2] and found.verdicts.to_numpy().sum() == 6
    assert found.shares()["settles"] == found.shares()["converges"] == 1
    with torch.no_grad():
        line = [model.head(z * 0.9 ** (k + 1)).argmax(1) == labels for k in found.steps.step]
    assert found.shares()["stays right"] == pytest.approx(torch.stack(line).all(0).double().mean().item())
