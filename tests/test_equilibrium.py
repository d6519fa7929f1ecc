"""Fixed points: closed forms, a naive acceleration, unrolled gradients with dense norms, memory, and refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import iterconv as ic
from iterconv.models import ConstrainedStage, Equilibrium, Iterating, ResidualBlock, to_equilibrium
from iterconv.models.fixed_point import iterate, solve

EXACT = Iterating(tolerance=1e-13, most=2000)


def contraction(size=6, n=3, factor=0.9, seed=0):
    """A linear contraction z -> A z + b, and its fixed points by a linear solve."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix *= factor / torch.linalg.matrix_norm(matrix, ord=2)
    b = torch.randn(n, size, generator=generator, dtype=torch.float64)
    return matrix, b, torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix, b.T).T


@pytest.mark.parametrize("window", [0, 2, 5])
def test_a_linear_contraction_comes_to_its_closed_form(window):
    matrix, b, expected = contraction()
    found = iterate(lambda z: z @ matrix.T + b, b, Iterating(tolerance=1e-12, most=2000, window=window))
    assert torch.allclose(found.z, expected, rtol=1e-9)
    assert (found.residual <= 1e-12).all() and (found.applications < 2000).all()


def test_with_a_window_as_large_as_the_state_a_linear_contraction_is_solved_at_once():
    """Without truncation the acceleration is equivalent to GMRES, which ends after as many steps as there are unknowns.

    Source: Walker & Ni 2011, Theorem 2.2.
    """
    matrix, b, expected = contraction(size=4, factor=0.99)
    fast = iterate(lambda z: z @ matrix.T + b, b, Iterating(tolerance=1e-9, window=8))
    slow = iterate(lambda z: z @ matrix.T + b, b, Iterating(tolerance=1e-9, window=0, most=5000))
    assert fast.applications.max() <= 8 and slow.applications.min() > 20
    assert torch.allclose(fast.z, expected, rtol=1e-6)


def accelerate_naively(g, z, window, steps):
    """Walker & Ni's constrained form, Eq. 2.1: weights that sum to 1 and make the combined step smallest; one example.

    A step that is longer than the one before is followed by a plain one, as ours is.
    """
    results, steps_of, states, last = [], [], [], torch.inf
    for _ in range(steps):
        results.append(g(z))
        steps_of.append(results[-1] - z)
        kept = steps_of[-(window + 1) :]
        k = len(kept)
        system = torch.zeros(k + 1, k + 1, dtype=z.dtype)
        system[:k, :k] = torch.stack(kept) @ torch.stack(kept).T
        system[k, :k] = system[:k, k] = 1
        weights = torch.linalg.lstsq(system, torch.eye(k + 1, dtype=z.dtype)[:, k:]).solution[:k, 0]
        length = float(steps_of[-1].norm() / results[-1].norm())
        z = results[-1] if length > last else (weights[:, None] * torch.stack(results[-(window + 1) :])).sum(0)
        last = length
        states.append(z)
    return states


def test_every_accelerated_state_equals_the_constrained_form():
    matrix, b, _ = contraction(size=12, n=2)
    seen = []

    def g(z):
        seen.append(z)
        return torch.tanh(z @ matrix.T) + b

    iterate(g, b, Iterating(tolerance=1e-15, most=7, window=2))
    for row in (0, 1):
        naive = accelerate_naively(lambda z, row=row: torch.tanh(z @ matrix.T) + b[row], b[row], 2, 6)
        for ours, theirs in zip(seen[1:], naive, strict=True):
            assert torch.allclose(ours[row], theirs, rtol=1e-7, atol=1e-9)


def test_what_does_not_converge_is_told_by_its_residual():
    z = torch.ones(2, 3)
    found = iterate(lambda z: 2 * z + 1, z, Iterating(most=9, window=0))
    assert found.applications.tolist() == [9, 9] and (found.residual > 0.4).all()
    still = iterate(lambda z: z, z, Iterating())
    assert still.applications.tolist() == [1, 1] and torch.equal(still.z, z)


def test_the_gradient_of_a_linear_fixed_point_is_the_closed_form():
    matrix, b, _ = contraction()
    own = [tensor.clone().requires_grad_() for tensor in (matrix, b)]
    z = solve(lambda z, matrix, b: z @ matrix.T + b, torch.zeros_like(b), tuple(own), EXACT)
    z.pow(3).sum().backward()
    theirs = [tensor.clone().requires_grad_() for tensor in (matrix, b)]
    inverse = torch.linalg.inv(torch.eye(6, dtype=torch.float64) - theirs[0])
    (theirs[1] @ inverse.T).pow(3).sum().backward()
    for one, other in zip(own, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-9)


def make_stage(width=2, blocks=1, seed=0, **options):
    torch.manual_seed(seed)
    block = ResidualBlock(width)
    for norm in (block.bn1, block.bn2):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        block.conv1.weight.data *= 2
    return ConstrainedStage([block] * blocks, **({"proper": True, "lipschitz": 0.9} | options)).double()


def dense(function, shape):
    """The dense matrix of a linear map of images, transposed."""
    basis = torch.eye(shape[0] * shape[1] * shape[2], dtype=torch.float64).view(-1, *shape)
    return function(basis).flatten(1)


def linear_maps(block):
    """What is between the ReLUs of a block whose batch norms are at rest, and Conv2."""
    first, second = (
        (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1) for norm in (block.bn1, block.bn2)
    )
    inner = lambda v: second * F.conv2d(first * v, block.conv1.weight, padding=1)  # noqa: E731
    return inner, lambda v: F.conv2d(v, block.conv2.weight, padding=1)


def unroll(block, x, lipschitz, steps):
    """Apply a properly convergent block again and again, with statistics at rest and its norm from dense matrices."""
    norms = [torch.linalg.matrix_norm(dense(own, x.shape[1:]), ord=2) for own in linear_maps(block)]
    c = (norms[0] * norms[1] / lipschitz).clamp(min=1)

    def norm_at_rest(norm, z):
        mean, variance, scale, shift = (
            each.view(1, -1, 1, 1) for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (z - mean) / (variance + norm.eps).sqrt() * scale + shift

    z = x
    for _ in range(steps):
        hidden = F.conv2d(F.relu(norm_at_rest(block.bn1, z)), block.conv1.weight, padding=1)
        z = x + F.conv2d(F.relu(norm_at_rest(block.bn2, hidden)), block.conv2.weight, padding=1) / c
    return z, c


@pytest.mark.parametrize("window", [0, 5])
def test_implicit_gradients_equal_unrolled_ones(window):
    stage = make_stage()
    with torch.no_grad():  # the vectors that training would come to
        for own, norms in zip(linear_maps(stage.blocks[0]), (stage.inner_norms, stage.outer_norms), strict=True):
            left, _, _ = torch.linalg.svd(dense(own, (2, 4, 4)))
            norms.vectors = left[:, 0].view(1, 2, 4, 4).clone()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn_like(x)
    model = Equilibrium(stage, Iterating(tolerance=1e-13, most=2000, window=window))
    parameters = [x, *stage.parameters()]
    z = model(x)
    ours = torch.autograd.grad((z - target).pow(2).sum(), parameters)
    unrolled, c = unroll(stage.blocks[0], x, 0.9, 150)
    theirs = torch.autograd.grad((unrolled - target).pow(2).sum(), parameters)
    assert c > 1.5, "the constraint is at work"
    assert torch.allclose(z, unrolled, rtol=1e-9)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()
    assert model.adjoint is not None and (model.adjoint.residual <= 1e-13).all()


def test_the_fixed_point_is_where_the_stage_goes_and_batch_norms_stay_as_they_were():
    stage = make_stage(width=4, blocks=3).eval()
    model = Equilibrium(stage, EXACT)
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    x = torch.randn(5, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        z, expected = model(x), x
        for _ in range(300):
            expected = stage.step(0, expected, x)
        assert torch.allclose(z, expected, rtol=1e-9)
        alone = torch.cat([model(one[None]) for one in x])
        assert torch.allclose(z, alone, rtol=1e-9), "no example depends on the others"
    model.train()
    model(x).sum().backward()
    moved = {name for name, value in stage.state_dict().items() if not torch.equal(value, before.get(name, value))}
    assert all("running" not in name and "tracked" not in name for name in moved)


def kept_bytes(function):
    """The bytes of all different tensors that are kept for the backward pass."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_memory_does_not_depend_on_the_number_of_applications():
    stage = make_stage(width=4).eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)

    def unrolled(steps):
        z = x
        for _ in range(steps):
            z = stage.step(0, z, x)
        return z

    def implicit(steps):
        model = Equilibrium(stage, Iterating(tolerance=1e-300, most=steps, window=0))
        z = model(x)
        assert model.found.applications.max() == steps and z.requires_grad
        return z

    assert kept_bytes(lambda: implicit(8)) == kept_bytes(lambda: implicit(64))
    assert kept_bytes(lambda: unrolled(64)) > 6 * kept_bytes(lambda: unrolled(8))


def test_a_model_iterated_to_a_tolerance_is_the_very_deep_tied_one():
    torch.manual_seed(0)
    net = ic.models.resnet(4, 1, 2, in_channels=1, residual="proper").double()
    for _ in range(2):
        net(torch.randn(8, 1, 8, 8, dtype=torch.float64))
    net.eval()
    found, images = to_equilibrium(net, EXACT).eval(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        z = x = net.stem(images)
        for stage in net.stages:
            z = x = net.transitions[0](z) if stage is net.stages[1] else x
            for _ in range(150):
                z = stage.step(0, z, x)
        assert torch.allclose(found(images), net.head(z), rtol=1e-8)
    assert {id(p) for p in found.parameters()} == {id(p) for p in net.parameters()}


class WithDropout(ResidualBlock):
    def __init__(self, width):
        super().__init__(width)
        self.dropout = nn.Dropout(0.1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: make_stage(proper=False), "has no fixed point for certain; use stages of iterconv.models.resnet"),
        (lambda: ic.models.resnet(4, 2, 1).stages[0], "a ResidualStage without the shortcut from the stage's input"),
        (lambda: make_stage(lipschitz=1.0), "lipschitz=1 is no contraction; make the stage with a constant below 1"),
        (
            lambda: ic.models.resnet(4, 3, 1, residual="proper", init="recurrent").stages[0],
            "the 3 blocks of the stage are different modules, which have no common fixed point",
        ),
        (
            lambda: ConstrainedStage([WithDropout(4)], proper=True, lipschitz=0.9),
            "a block of WithDropout with Dropout is no fixed function",
        ),
    ],
)
def test_stages_without_a_fixed_point_are_refused(make, says):
    with pytest.raises(ic.InputError) as told:
        Equilibrium(make())
    assert says in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"tolerance": 0}, "tolerance=0 is not in"), ({"most": 0}, "most=0 is too"), ({"window": -1}, "window=-1 is too")],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(ic.InputError, match=says):
        Iterating(**options)
