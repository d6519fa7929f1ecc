"""Bounds of foreign branches, against dense matrices and Jacobians."""

import math
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import iterconv as ic
import zoo
from iterconv.lipschitz import Slope, rules
from iterconv.lipschitz.branches import find_branch, opaque_parts
from iterconv.spectral.linear_maps import LinearPart, converged, estimated
from residual_blocks import PreActivation, Residual, noisy


def dense_norm(function, shape):
    """The largest singular value of an affine function, column by column."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    offset = function(torch.zeros(1, *shape, dtype=torch.float64))
    return torch.linalg.matrix_norm((function(basis) - offset).flatten(1), ord=2).item()


LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear on tokens": (lambda: nn.Linear(5, 3), (4, 5)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "strided": (lambda: nn.Conv2d(2, 3, 3, stride=2), (2, 7, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 4)),
    "depthwise, dilated": (lambda: nn.Conv2d(3, 3, 3, groups=3, dilation=2, padding=2), (3, 5, 5)),
    "circular": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 4, 4)),
    "reflecting": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 4, 4)),
    "one dimension": (lambda: nn.Conv1d(2, 3, 5, padding=2), (2, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 3, 3)),
    "pooling": (lambda: nn.AvgPool2d(3, 2, 1), (2, 6, 6)),
    "upsampling": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 3)),
    "spectrally normalised": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 3, padding=1)),
        (2, 5, 4),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_norms_of_layers_equal_dense_svd(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().eval()
    expected = dense_norm(layer.double(), shape)
    layer.float()
    assert converged(LinearPart(layer, shape)).item() == pytest.approx(expected, rel=1e-6)
    assert estimated(LinearPart(layer, shape), 100).item() == pytest.approx(expected, rel=1e-2)
    assert estimated(LinearPart(layer, shape), 2).item() <= expected * 1.00001


def largest_slope(function):
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(function(x).sum(), x)
    return slopes.abs().max().item()


def known_slope(layer):
    largest = rules.ACTIVATIONS[type(layer)].largest
    return largest(layer) if callable(largest) else largest


@pytest.mark.parametrize("kind", [kind for kind in rules.ACTIVATIONS if isinstance(kind, type)])
def test_slopes_are_the_largest_that_there_are(kind):
    activation = kind().double()
    largest = largest_slope(activation)
    assert largest <= known_slope(activation) + 1e-8
    assert largest == pytest.approx(known_slope(activation), abs=2e-4)


@pytest.mark.parametrize("name", [kind for kind in rules.ACTIVATIONS if isinstance(kind, str)])
def test_slopes_of_foreign_activations_are_the_largest_that_there_are(name):
    zoo.torchvision()
    module = pytest.importorskip(name.rpartition(".")[0])
    activation = getattr(module, name.rpartition(".")[2])()
    largest = largest_slope(activation)
    assert largest <= (known := rules.ACTIVATIONS[name].largest) and largest == pytest.approx(known, abs=3e-4)
    assert rules.rule_of(activation) is rules.ACTIVATIONS[name]


@pytest.mark.parametrize(
    "activation, function",
    [
        (nn.LeakyReLU(1.5), lambda x: F.leaky_relu(x, 1.5)),
        (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, negative_slope=0.2)),
        (nn.ELU(2.0), lambda x: F.elu(x, 2.0)),
        (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    ],
)
def test_slopes_with_parameters(activation, function):
    known = known_slope(activation)
    assert largest_slope(activation) == pytest.approx(known, abs=3e-4)
    block = Function(lambda z, a, b: function(a(z))).eval()
    expected = known * torch.linalg.matrix_norm(block.a.weight, ord=2).item()
    assert bound_of(find_branch(block, torch.randn(2, 4))) == pytest.approx(expected, rel=1e-5)


def folded(conv, norm, before=None):
    """The matrix of diag(norm) Conv diag(before) as a function."""
    diagonal = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).double()
    other = torch.ones(conv.in_channels).double()
    if before is not None:
        other = (before.weight / torch.sqrt(before.running_var + before.eps)).double()
    weight = conv.weight.double() * diagonal[:, None, None, None] * other[None, :, None, None]
    return lambda x: F.conv2d(x, weight, padding=1)


def bound_of(branch):
    with torch.no_grad():
        return float(branch.bound.value(converged))


def test_a_block_as_the_papers_is_bounded_as_in_the_paper():
    torch.manual_seed(0)
    block = noisy(PreActivation(3))
    found = find_branch(block, torch.randn(1, 3, 5, 5))
    inner = dense_norm(folded(block.conv1, block.bn2, block.bn1), (3, 5, 5))
    outer = dense_norm(lambda x: F.conv2d(x, block.conv2.weight.double(), padding=1), (3, 5, 5))
    assert bound_of(found) == pytest.approx(inner * outer, rel=1e-6)
    assert found.last is block.conv2 and found.uncovered == ()
    z = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(found.function(z), block.branch(z), atol=1e-5, rtol=1e-4)


def test_the_first_resnets_block_is_bounded_before_its_last_activation():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.SiLU(), nn.Conv2d(3, 3, 3, padding=1)]
    branch = nn.Sequential(*layers, nn.BatchNorm2d(3))
    block = noisy(Residual(branch, nn.ReLU(inplace=True)))
    found = find_branch(block, torch.randn(1, 3, 5, 5))
    norms = [dense_norm(folded(branch[i], branch[i + 1]), (3, 5, 5)) for i in (0, 3)]
    assert bound_of(found) == pytest.approx(norms[0] * known_slope(nn.SiLU()) * norms[1], rel=1e-6)
    assert found.last is branch[4]
    z = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(found.function(z), branch(z), atol=1e-5, rtol=1e-4)


class Forked(nn.Module):
    """Two ways added, a scale for each channel, and a residual within the branch."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.gamma = nn.Parameter(torch.tensor([0.5, -3.0, 1.0, 2.0]))

    def forward(self, z):
        both = torch.tanh(self.a(z)) + self.b(z)
        inner = both + self.c(both)
        return z + self.gamma * inner + self.d(z)


def test_sums_branches_and_scales():
    torch.manual_seed(0)
    block = Forked()
    a, b, c, d = (torch.linalg.matrix_norm(layer.weight.double(), ord=2).item() for layer in block.children())
    both = a + b
    expected = 3 * (both + c * both) + d
    found = find_branch(block.eval(), torch.randn(1, 4))
    assert bound_of(found) == pytest.approx(expected, rel=1e-6) and found.last is None
    assert {part.layer for part in found.parts} == set(block.children()) and len(found.parts) == 4
    assert found.scales == [block.gamma]


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v2",
        *(
            pytest.param(name, marks=pytest.mark.extended)
            for name in ("regnetx_002", "resnetv2_50", "torchvision resnet34")
        ),
    ],
)
@pytest.mark.medium
def test_no_jacobian_of_known_models_exceeds_its_bound(name):
    torch.manual_seed(0)
    kind = zoo.timm_model if name in ("resnet18", "resnetv2_50", "regnetx_002") else zoo.torchvision_model
    model, inputs = kind(name.split()[-1], 32)
    table = ic.lipschitz.audit(noisy(model), inputs[:2], iterations=15)
    assert (table.not_covered == "").all() and len(table) > 1
    assert (table.measured > 0).all() and (table.measured <= table.bound * (1 + 1e-4)).all()
    assert (table.estimate <= table.bound * (1 + 1e-4)).all() and (table.estimate > table.bound / 3).all()
    assert (table.constrained == table.bound).all()


@pytest.mark.parametrize(
    "name, parts",
    [
        ("vit_tiny_patch16_224", {"LayerNorm", "Attention"}),
        ("convnext_atto", {"LayerNorm2d", "mul"}),
        pytest.param("mixer_s16_224", {"LayerNorm", "transpose"}, marks=pytest.mark.extended),
        pytest.param("regnety_002", {"mean", "mul"}, marks=pytest.mark.extended),
    ],
)
@pytest.mark.medium
def test_parts_without_a_bound_are_named(name, parts):
    options = {"img_size": 64} if "224" in name else {}
    model, inputs = zoo.timm_model(name, 64, **options)
    table = ic.lipschitz.audit(model, inputs[:1], iterations=2)
    assert all(set(row.split(", ")) == parts for row in table.not_covered)
    assert table.bound.isna().all() and table.measured.notna().all()
    assert not (table.verdict == "contractive").any()


@pytest.mark.parametrize(
    "name, part", [("gpt2", "GPT2Attention"), ("bert", "BertAttention"), ("llama", "LlamaRMSNorm")]
)
@pytest.mark.medium
def test_language_models_are_measured_and_their_parts_named(name, part):
    torch.manual_seed(0)
    model, batch = zoo.language_model(name)
    table = ic.lipschitz.audit(model, batch, iterations=5)
    assert len(table) == 4 and all(part in row for row in table.not_covered)
    assert table.bound.isna().all() and (table.measured > 0).all()


def test_measured_constant_of_a_foreign_branch_is_the_dense_jacobians():
    torch.manual_seed(0)
    branch = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5))
    model = nn.Sequential(nn.Linear(3, 5), Residual(branch), Residual(nn.Linear(5, 5)), nn.Linear(5, 2))
    inputs = torch.randn(6, 3)
    table = ic.lipschitz.audit(model, inputs, iterations=200)
    z = model[0](inputs)
    jacobians = torch.stack([torch.autograd.functional.jacobian(branch, row) for row in z])
    expected = torch.linalg.matrix_norm(jacobians, ord=2).max().item()
    assert table.measured[0] == pytest.approx(expected, rel=1e-3) and table.measured[0] < table.bound[0]
    assert table.measured[1] == pytest.approx(table.bound[1], rel=1e-3), "a linear branch has its bound everywhere"


def smooth_convolution():
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    conv.weight.data = torch.rand(4, 4, 3, 3) * 0.2 + 1
    return nn.utils.parametrizations.spectral_norm(conv, n_power_iterations=50)


def test_trap_1_the_audit_does_not_believe_spectral_norm():
    torch.manual_seed(0)
    model = nn.Sequential(*(Residual(smooth_convolution()) for _ in range(2)), nn.Flatten(), nn.Linear(4 * 256, 3))
    table = ic.lipschitz.audit(model, torch.randn(2, 4, 16, 16), iterations=100)
    assert (table.bound > 2.5).all() and (table.measured > 2.5).all() and (table.verdict == "not contractive").all()


def test_trap_2_batch_norm_undoes_a_constraint_on_the_weights_and_the_audit_shows_it():
    torch.manual_seed(0)

    def branch():
        convs = [nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2)]
        normed = [nn.utils.parametrizations.spectral_norm(conv) for conv in convs]
        return nn.Sequential(normed[0], nn.BatchNorm2d(4), nn.ReLU(), normed[1], nn.BatchNorm2d(4))

    model = nn.Sequential(*(Residual(branch()) for _ in range(2)), nn.Flatten(), nn.Linear(4 * 64, 3))
    inputs = torch.randn(64, 4, 8, 8)
    model.train()
    for _ in range(100):  # settles the running statistics
        model(inputs)
    normed = ic.lipschitz.audit(model, inputs[:4]).measured
    for block in list(model)[:2]:
        block.branch[1], block.branch[4] = nn.Identity(), nn.Identity()
    bare = ic.lipschitz.audit(model, inputs[:4]).measured
    assert (normed > 2).all() and (bare < normed / 1.5).all(), f"{list(normed)} and {list(bare)}"


class Twice(Residual):
    def forward(self, z):
        hidden = self.branch(z)
        return z + hidden * hidden


@pytest.mark.parametrize(
    "block, says",
    [
        (Twice(nn.Linear(4, 4)), "mul"),
        (Residual(nn.LayerNorm(4)), "LayerNorm"),
        (Residual(nn.Hardshrink()), "Hardshrink"),
        (Residual(nn.Softmax(-1)), "Softmax"),
        (Residual(nn.BatchNorm1d(4, track_running_stats=False)), "BatchNorm1d"),
        (Residual(nn.PReLU()), "PReLU"),  # it would have to be followed as it trains
        (Residual(nn.CELU()), "CELU"),
        (Residual(nn.Flatten()), "Flatten"),
        (Residual(nn.MaxPool1d(1)), "MaxPool1d"),
    ],
)
def test_what_has_no_rule_is_not_covered(block, says):
    found = find_branch(block.eval(), torch.randn(2, 4))
    assert found.uncovered == (says,) and math.isnan(bound_of(found))


class Function(nn.Module):
    """z plus any function of it and two linear layers."""

    def __init__(self, function):
        super().__init__()
        self.function, self.a, self.b = function, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, z):
        return z + self.function(z, self.a, self.b)


@pytest.mark.filterwarnings("ignore:This overload of add is deprecated")
@pytest.mark.parametrize(
    "function, part",
    [
        (lambda z, a, b: a(z)[:, :1] + b(z), "add"),  # broadcast to more, of a larger norm
        (lambda z, a, b: a(z) + torch.ones(4), "add"),
        (lambda z, a, b: a(z) * torch.ones(4), "mul"),
        (lambda z, a, b: a(z) * 0.5, "mul"),
        (lambda z, a, b: a.bias.exp() * a(z), "mul"),  # made of a parameter, which training would change
        (lambda z, a, b: a(z) * b(z), "mul"),
        (lambda z, a, b: torch.add(a(z), b(z), alpha=3), "add"),
        # A way to write a(z) + 3 * b(z) that torch still takes, with a warning.
        pytest.param(
            lambda z, a, b: a(z).add(3, b(z)),
            "add",
            marks=pytest.mark.filterwarnings("ignore:This overload of add is deprecated"),
        ),
        (lambda z, a, b: a(z) - b(z), "sub"),
        (lambda z, a, b: -a(z), "neg"),
        (lambda z, a, b: a(z) / 2, "truediv"),
        (lambda z, a, b: torch.cat([a(z)[:, :2], b(z)[:, 2:]], 1), "cat"),
        (lambda z, a, b: a(z)[:, [0, 0, 0, 0]], "getitem"),
        (lambda z, a, b: a(z).reshape(-1, 4), "reshape"),
        (lambda z, a, b: a(z).mean(-1, keepdim=True).expand(-1, 4), "expand"),
        (lambda z, a, b: F.normalize(a(z)), "normalize"),
        (lambda z, a, b: F.dropout(a(z), training=False), "dropout"),
        (lambda z, a, b: torch.clamp(a(z), -1, 1), "clamp"),
        (lambda z, a, b: F.celu(a(z), -2.0), "celu"),
        (lambda z, a, b: F.linear(z, a.weight), "linear"),
        (lambda z, a, b: torch.relu(input=a(z)), "relu"),
        (lambda z, a, b: a(z) * z.norm().item(), "item"),
        (lambda z, a, b: a(z) * z.size(1), "mul"),
    ],
)
def test_functions_without_a_rule_are_not_covered(function, part):
    found = find_branch(Function(function).eval(), torch.randn(2, 4))
    assert part in found.uncovered and math.isnan(bound_of(found))


class Snake(nn.Module):
    """An activation of a user's, with slopes from 0 to 2 times its gain."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return self.gain * (x + torch.sin(x) ** 2)


class Half(nn.Module):
    """A linear layer of a user's."""

    def forward(self, x):
        return 0.5 * x.flip(-1)


def test_a_users_own_layers_are_covered_once_they_are_registered(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    branch = nn.Sequential(nn.Linear(4, 4), Snake(1.5), Half())
    block, z = Residual(branch).eval(), torch.randn(1, 4) * 3
    assert {"mul", "sin"} < set(find_branch(block, z).uncovered)
    ic.lipschitz.register(Snake, ic.lipschitz.Slope(lambda layer: 2 * layer.gain))
    ic.lipschitz.register(Half, ic.lipschitz.affine)
    found = find_branch(block, z)
    assert found.uncovered == () and found.last is branch[2]
    weight = torch.linalg.matrix_norm(branch[0].weight, ord=2).item()
    assert bound_of(found) == pytest.approx(weight * 3 * 0.5, rel=1e-5)
    for _ in range(20):
        jacobian = torch.autograd.functional.jacobian(branch, torch.randn(1, 4) * 3).view(4, 4)
        assert torch.linalg.matrix_norm(jacobian, ord=2).item() <= bound_of(found) * (1 + 1e-5)
    model = nn.Sequential(Residual(branch), Residual(nn.Sequential(nn.Linear(4, 4), Snake())))
    table = ic.lipschitz.audit(model, z)
    assert (table.not_covered == "").all() and (table.measured <= table.bound).all()

    class Louder(Snake):
        def forward(self, x):
            return 10 * super().forward(x)

    assert find_branch(Residual(Louder()).eval(), z).uncovered == ("Louder",)


@pytest.mark.parametrize(
    "cls, rule, says",
    [
        (Snake(), Slope(2.0), "is not a class of torch modules; pass the layer's class"),
        (int, Slope(2.0), "cls=<class 'int'> is not a class of torch modules"),
        (Snake, 2.0, "rule=2.0 is not a rule; pass iterconv.lipschitz.Slope"),
    ],
)
def test_wrong_rules_are_refused(cls, rule, says):
    before = dict(rules.RULES)
    with pytest.raises(ic.InputError, match=says) as error:
        ic.lipschitz.register(cls, rule)
    assert "\n" not in str(error.value) and before == rules.RULES
    with pytest.raises(ic.InputError, match=r"largest=-1 is not in \[0, inf\)"):
        Slope(-1)


def test_what_torch_can_not_differentiate_is_not_measured():
    class Steps(nn.Module):
        def forward(self, z):
            return z + z // 0.1

    model = nn.Sequential(nn.Linear(4, 4), Steps(), Steps(), Residual(nn.Linear(4, 4)), Residual(nn.Linear(4, 4)))
    table = ic.lipschitz.audit(ic.adapt(model, torch.randn(2, 4), stages=["1:3", "3:"]), torch.randn(2, 4))
    assert table.verdict.tolist()[:2] == ["unknown", "unknown"] and table.measured[:2].isna().all()
    assert table.measured[2] > 0  # the others are


@pytest.mark.parametrize(
    "function",
    [
        lambda z, a, b: a(z) + b(z),
        lambda z, a, b: torch.add(a(z), b(z)),
        lambda z, a, b: a(z).add_(b(z)),
        lambda z, a, b: a(torch.relu(b(z))),
        lambda z, a, b: a(b(z).tanh()),
        lambda z, a, b: F.softplus(a(z), beta=3),
        lambda z, a, b: F.relu(a(F.gelu(b(z))), inplace=True),
        lambda z, a, b: a(b(a(z))),
        lambda z, a, b: z + a(z),
        lambda z, a, b: a(z) + (z + b(z)),
        lambda z, a, b: a.bias * (z + torch.mul(b(z), b.bias)),
    ],
)
def test_bounds_of_small_functions_hold(function):
    torch.manual_seed(0)
    block = Function(function).eval()
    z = torch.randn(2, 4)
    found = find_branch(block, z)
    assert found.uncovered == ()
    jacobian = torch.autograd.functional.jacobian(lambda z: function(z, block.a, block.b), z).view(8, 8)
    norm = torch.linalg.matrix_norm(jacobian, ord=2).item()
    assert 0 < norm <= bound_of(found) * (1 + 1e-5)


class Tripled(nn.Linear):
    def forward(self, z):
        return 3 * torch.relu(super().forward(z) - 1)


class SiLU(nn.SiLU):  # with the gain of normaliser-free nets, under torch's name
    def forward(self, z):
        return 1.7881 * super().forward(z)


class Norm(nn.BatchNorm1d):
    def forward(self, z):
        return 5 * super().forward(z)


class Dropout(nn.Module):
    def forward(self, z):
        return 3 * z


class Keyed(nn.Linear):
    def forward(self, z):
        return {"out": super().forward(z)}


def patched():
    layer = nn.Linear(4, 4)
    layer.forward = lambda z: 3 * torch.relu(nn.functional.linear(z, layer.weight))
    return layer


@pytest.mark.parametrize(
    "layer, function, part",
    [
        (Tripled(4, 4), None, "Tripled"),
        (SiLU(), None, "SiLU"),
        (Norm(4), None, "Norm"),
        (Dropout(), None, "mul"),
        (Keyed(4, 4), lambda z, a, b: a(z)["out"], "Keyed"),
        (patched(), None, "Linear"),
    ],
)
def test_what_only_looks_like_a_covered_part_is_not(layer, function, part):
    block = Function(function or (lambda z, a, b: a(z))).eval()
    block.a = layer.eval()
    found = find_branch(block, torch.randn(2, 4))
    assert part in found.uncovered and math.isnan(bound_of(found))


def rectified(z, a, b):
    y = a(z)
    F.relu_(y)
    return y


def rectified_input(z, a, b):
    return a(torch.relu_(z))


def multiplied(z, a, b):
    y = a(z)
    y.view(-1).mul_(10)
    return y


def dropped(z, a, b):
    y = a(z)
    same = F.dropout(y, training=False)
    same *= 10  # torch.fx makes this out of place
    return y


@pytest.mark.parametrize("function", [rectified, rectified_input, multiplied, dropped])
def test_a_trace_that_computes_something_else_is_refused(function):
    for z in (torch.randn(2, 4), torch.rand(2, 4)):  # a rectifier leaves the second as it is
        with pytest.raises(ic.InputError, match="computes something else"):
            find_branch(FunctionAfter(function).eval(), z)


class FunctionAfter(Function):
    """The function before the sum, so that what it does to the input shows."""

    def forward(self, z):
        change = self.function(z, self.a, self.b)
        return z + change


def test_a_sum_into_the_input_itself_leaves_it_to_the_caller():
    block, z = FunctionInto().eval(), torch.randn(2, 4)
    found, before = find_branch(block, z), z.clone()
    torch.testing.assert_close(found.function(z), block.a(z))
    assert torch.equal(z, before) and bound_of(found) > 0


class FunctionInto(Function):
    def __init__(self):
        super().__init__(None)

    def forward(self, z):
        return z.add_(self.a(z))


def test_a_bound_that_is_measured_to_be_wrong_is_withdrawn(monkeypatch):
    monkeypatch.setitem(rules.RULES, nn.ReLU, Slope(0.01))
    model = nn.Sequential(*[Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) for _ in range(2)])
    table = ic.lipschitz.audit(model, torch.randn(20, 4))
    assert table.bound.isna().all() and table.constrained.isna().all()
    assert (table.not_covered == "something that makes the measured constant exceed the bound").all()
    assert not (table.verdict == "contractive").any()


class AnotherSum(Residual):
    """z + f + g, summed one after the other."""

    def __init__(self):
        super().__init__(nn.Linear(4, 4))
        self.other = nn.Linear(4, 4)

    def forward(self, z):
        return (z + self.branch(z)) + self.other(z)


def test_of_two_branches_neither_is_the_last_layer():
    torch.manual_seed(0)
    block = AnotherSum()
    found = find_branch(block, torch.randn(1, 4))
    norms = [torch.linalg.matrix_norm(layer.weight, ord=2).item() for layer in (block.branch, block.other)]
    assert bound_of(found) == pytest.approx(sum(norms), rel=1e-5) and found.last is None


def test_layers_with_hooks_are_not_covered():
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, output: output * 10)
    old = nn.utils.spectral_norm(nn.Linear(4, 4))
    for layer in (hooked, old):
        assert find_branch(Residual(layer).eval(), torch.randn(1, 4)).uncovered == ("Linear",)


class Branching(Residual):
    def forward(self, z):
        return z + self.branch(z) if z.sum() > 0 else z


@pytest.mark.parametrize(
    "block, says",
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "Sequential adds nothing to its input"),
        (Branching(nn.Linear(4, 4)), "the forward of Branching can't be traced"),
    ],
)
def test_blocks_without_a_branch_are_refused_in_a_line(block, says):
    with pytest.raises(ic.InputError, match=says) as error:
        find_branch(block.eval(), torch.randn(1, 4))
    assert "\n" not in str(error.value)


def test_an_audit_goes_on_where_a_block_can_not_be_traced():
    model = nn.Sequential(Branching(nn.Linear(4, 4)), Branching(nn.Linear(4, 4)), nn.Linear(4, 2))
    table = ic.lipschitz.audit(model, torch.ones(1, 4) * 9)
    assert table.bound.isna().all() and all("can't be traced" in row for row in table.not_covered)
    weight = model[0].branch.weight
    assert table.measured[0] in (
        pytest.approx(torch.linalg.matrix_norm(weight, ord=2).item(), rel=1e-2),
        pytest.approx(0.0),
    )


def test_opaque_parts_are_norms_without_fixed_statistics_and_attention():
    block = nn.Sequential(nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.MultiheadAttention(4, 2))
    assert opaque_parts(block) == ["LayerNorm", "GroupNorm", "MultiheadAttention"]


class Sides(nn.Module):
    """A branch with a scale for each channel, beside another way."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.other, self.gamma = inner, nn.Conv2d(3, 3, 1), nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, z):
        return self.inner(z) * self.gamma + torch.tanh(self.other(z))


def random_part(rng, depth=0):
    kinds = ["conv"] * 3 + ["norm", "act", "act", "mean"] + ["residual", "sides"] * (depth < 2)
    kind = rng.choice(kinds)
    if kind == "conv":
        side, mode = rng.choice([1, 3]), rng.choice(["zeros", "circular", "reflect"])
        mode = "zeros" if side == 1 else mode
        return nn.Conv2d(3, 3, side, padding=side // 2, groups=rng.choice([1, 3]), padding_mode=mode)
    if kind == "norm":
        return noisy(nn.BatchNorm2d(3), seed=rng.randrange(99))
    if kind == "act":
        return rng.choice([nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Mish, nn.LeakyReLU])()
    if kind == "mean":
        return nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.ConstantPad2d((1, -1, 0, 0), 0.0))
    inner = nn.Sequential(*(random_part(rng, depth + 1) for _ in range(2)))
    return Residual(inner) if kind == "residual" else Sides(inner)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.medium
def test_no_jacobian_of_a_random_branch_exceeds_its_bound(seed):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    branch = nn.Sequential(*(random_part(rng) for _ in range(rng.randint(1, 5))))
    block = Residual(branch, rng.choice([None, nn.ReLU()])).eval()
    z = torch.randn(1, 3, 4, 4) * rng.choice([0.1, 1, 5])
    found = find_branch(block, z)
    assert found.uncovered == ()
    torch.testing.assert_close(found.function(z), branch(z), atol=1e-4, rtol=1e-3)
    jacobian = torch.autograd.functional.jacobian(branch, z).view(48, 48)
    assert torch.linalg.matrix_norm(jacobian, ord=2).item() <= bound_of(found) * (1 + 1e-4)
