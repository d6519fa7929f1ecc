import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import iterconv as ic
from iterconv.lipschitz import ConvolutionNorms, operator_norms
from iterconv.lipschitz.norms import power_iteration, random_maps


def dense(kernel, size, left=None, right=None):
    """The matrix of diag(left) Conv diag(right) on maps of this size, column by column."""
    out, channels = kernel.shape[:2]
    left = torch.ones(out) if left is None else left
    right = torch.ones(channels) if right is None else right
    basis = torch.eye(channels * size[0] * size[1], dtype=torch.float64).view(-1, channels, *size)
    columns = F.conv2d(basis * right.double()[:, None, None], kernel.double(), padding=kernel.shape[-1] // 2)
    return (columns * left.double()[:, None, None]).flatten(1).T


def dense_norm(*arguments):
    return torch.linalg.matrix_norm(dense(*arguments), ord=2)


def diagonal(bn):
    return bn.weight / torch.sqrt(bn.running_var + bn.eps)


def constrained_net(residual="proper", blocks=3, stages=2, width=4, init="independent", trained=True, lipschitz=0.95):
    """A small net whose bounds are far above mu and whose batch norms are not trivial."""
    torch.manual_seed(0)
    net = ic.models.resnet(width, blocks, stages, in_channels=1, residual=residual, init=init, lipschitz=lipschitz)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand_like(module.weight) * (5 if trained else 1) + 0.5)
    if trained:
        for _ in range(8):
            net(torch.randn(16, 1, 8, 8))
    return net


@pytest.mark.parametrize(
    "out, channels, size, side",
    [(4, 4, (8, 8), 3), (3, 5, (4, 6), 3), (6, 2, (2, 2), 3), (4, 4, (1, 1), 3), (3, 3, (5, 5), 5), (4, 3, (3, 3), 1)],
)
def test_norms_equal_dense_svd(out, channels, size, side):
    torch.manual_seed(1)
    kernels = torch.randn(3, out, channels, side, side)
    left, right = torch.rand(3, out) + 0.1, -torch.rand(3, channels) - 0.1
    for factors in ((None, None), (left, right)):
        norms = operator_norms(kernels, size, *factors)
        for block in range(3):
            own = [factor if factor is None else factor[block] for factor in factors]
            assert norms[block].item() == pytest.approx(dense_norm(kernels[block], size, *own).item(), rel=1e-9)


def test_the_norm_of_a_zero_kernel_is_zero():
    assert operator_norms(torch.zeros(2, 3, 3, 3, 3), (4, 4)).tolist() == [0, 0]


def test_trap_1_the_reshaped_kernel_does_not_bound_the_convolution():
    kernel = torch.ones(1, 4, 4, 3, 3)
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    conv.weight.data = kernel[0]
    conv = nn.utils.parametrizations.spectral_norm(conv, n_power_iterations=50)
    reshaped = conv.weight.detach()
    assert torch.linalg.matrix_norm(reshaped.flatten(1), ord=2).item() == pytest.approx(1, rel=1e-3)
    true = operator_norms(reshaped[None], (16, 16)).item()
    assert true == pytest.approx(dense_norm(reshaped, (16, 16)).item(), rel=1e-6) and true > 2.5


def test_power_iteration_approaches_from_below():
    torch.manual_seed(2)
    kernels = torch.randn(2, 4, 4, 3, 3)
    start = random_maps(2, 4, (6, 6), kernels)
    norms = torch.stack([power_iteration(kernels, start, steps=n)[2] for n in (1, 2, 5, 20, 200)])
    exact = torch.stack([dense_norm(k, (6, 6)) for k in kernels]).float()
    assert (norms.diff(dim=0) >= -1e-5).all() and (norms <= exact * (1 + 1e-5)).all()
    torch.testing.assert_close(norms[-1], exact, rtol=1e-3, atol=0)


def test_one_step_a_training_forward_converges_to_the_norm():
    torch.manual_seed(3)
    norms, kernels = ConvolutionNorms(), torch.randn(3, 4, 4, 3, 3)
    for _ in range(300):
        table = norms.tables(kernels, (5, 5))
    exact = torch.stack([dense_norm(k, (5, 5)) for k in kernels]).float()
    torch.testing.assert_close(table.sum((1, 2)), exact, rtol=1e-4, atol=0)
    before = norms.vectors.clone()
    torch.testing.assert_close(norms.converged(kernels, (5, 5)), exact, rtol=1e-5, atol=0)
    assert torch.equal(norms.vectors, before), "evaluating does not move the state"


def test_the_table_gives_the_norm_for_any_factors_and_its_gradient():
    """d sigma / d W of diag(l) Conv diag(r) is l u x (r v), here against the dense singular vectors."""
    torch.manual_seed(4)
    kernels = torch.randn(1, 3, 3, 3, 3, requires_grad=True)
    left, right = torch.rand(1, 3) + 0.5, torch.rand(1, 3) + 0.5
    norms = ConvolutionNorms()
    for _ in range(3000):
        table = norms.tables(kernels, (4, 4), left, right)
    sigma = left[0] @ table[0] @ right[0]
    (gradient,) = torch.autograd.grad(sigma, kernels)
    reference = kernels.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(dense_norm(reference[0], (4, 4), left[0], right[0]), reference)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-2, atol=1e-3)


def test_bound_of_a_block_is_the_product_of_dense_norms():
    net = constrained_net()
    table = ic.lipschitz.audit(net, torch.randn(4, 1, 8, 8))
    for row in table.itertuples():
        block, size = net.stages[row.stage].blocks[row.block], (8 // 2**row.stage,) * 2
        inner = dense_norm(block.conv1.weight, size, diagonal(block.bn2), diagonal(block.bn1))
        bound = (inner * dense_norm(block.conv2.weight, size)).item()
        assert row.bound == pytest.approx(bound, rel=1e-5)
        c = net.stages[row.stage].constants(size)[row.block].item()
        assert c == pytest.approx(max(bound / 0.95, 1), rel=1e-4)
        assert row.constrained == pytest.approx(0.95, rel=1e-4)


@pytest.mark.parametrize("residual", ["improper", "proper"])
def test_no_jacobian_exceeds_mu_whatever_batch_norm_does(residual):
    """Trap 2: batch norms with scales of 5 and settled statistics; the unconstrained branch is far from contracting."""
    net = constrained_net(residual).eval()
    stage, z = net.stages[1], torch.randn(3, 8, 4, 4) * 3
    for index in range(3):
        for example in z:
            jacobian = torch.func.jacrev(lambda x, i=index: stage.branch(i, x[None])[0])(example).reshape(128, 128)
            free = torch.func.jacrev(lambda x, i=index: stage.blocks[i].branch(x[None])[0])(example).reshape(128, 128)
            assert torch.linalg.matrix_norm(jacobian, ord=2) <= 0.95
            assert torch.linalg.matrix_norm(free, ord=2) > 2


def test_measured_constant_is_the_largest_dense_jacobian_norm():
    net = constrained_net(stages=1, blocks=2)
    inputs = torch.randn(3, 1, 5, 5)
    table = ic.lipschitz.audit(net, inputs, iterations=300)
    net.eval()
    x = net.stem(inputs).detach()
    z = net.stages[0].step(0, x, x).detach()
    for index, entering in enumerate((x, z)):
        largest = max(
            torch.linalg.matrix_norm(
                torch.func.jacrev(lambda e, i=index: net.stages[0].branch(i, e[None])[0])(example).reshape(100, 100),
                ord=2,
            ).item()
            for example in entering
        )
        assert table.measured[index] == pytest.approx(largest, rel=1e-2)
        assert table.measured[index] <= largest * (1 + 1e-5)


def test_a_tied_properly_convergent_stage_contracts_to_one_fixed_point():
    net = constrained_net(init="recurrent", stages=1, blocks=1, trained=False).eval()
    stage, x = net.stages[0], torch.randn(6, 4, 8, 8)
    z, y = torch.randn_like(x) * 10, torch.randn_like(x) * 10
    for _ in range(60):
        distance = (z - y).flatten(1).norm(dim=1)
        z, y = stage.step(0, z, x), stage.step(0, y, x)
        assert ((z - y).flatten(1).norm(dim=1) <= 0.95 * distance + 1e-5).all()
    torch.testing.assert_close(z, y, atol=1e-4, rtol=0)
    torch.testing.assert_close(stage.step(0, z, x), z, atol=1e-4, rtol=0)


def test_a_bound_below_mu_changes_nothing():
    torch.manual_seed(0)
    free = ic.models.resnet(4, 2, 1, 1, norm_scale=0.01)
    torch.manual_seed(0)
    held = ic.models.resnet(4, 2, 1, 1, norm_scale=0.01, residual="improper")
    x = torch.randn(8, 1, 6, 6)
    assert torch.equal(free(x), held(x)), "in training"
    free.eval(), held.eval()
    with torch.no_grad():
        for net in (free, held):
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_var.fill_(1.0)
    assert torch.equal(free(x), held(x)), "in evaluation"


def test_training_divides_by_the_bound_with_batch_variances():
    net = constrained_net(stages=1, blocks=2)
    stage = net.stages[0].double()
    for module in (stage.inner_norms, stage.outer_norms):
        module.vectors = module.vectors.double()
    for _ in range(400):  # converge the vectors at these weights; statistics settle on this batch
        z = torch.randn(16, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            stage(z)
    expected = z
    for block in stage.blocks:
        hidden = block.conv1(F.relu(block.bn1(expected)))
        right = block.bn1.weight / torch.sqrt(expected.var((0, 2, 3), correction=0) + block.bn1.eps)
        left = block.bn2.weight / torch.sqrt(hidden.var((0, 2, 3), correction=0) + block.bn2.eps)
        bound = dense_norm(block.conv1.weight, (6, 6), left, right) * dense_norm(block.conv2.weight, (6, 6))
        expected = z + block.conv2(F.relu(block.bn2(hidden))) / max(bound / 0.95, 1)
    # The vectors follow running variances, the factors are the batch's own: equal up to their small difference.
    torch.testing.assert_close(stage(z), expected, rtol=2e-2, atol=2e-2)


def test_gradient_of_training_equals_finite_differences():
    net = constrained_net("improper", stages=1, blocks=2).double()
    for module in net.modules():
        if isinstance(module, ConvolutionNorms):
            module.vectors = module.vectors.double()
    state = copy.deepcopy(net.state_dict())
    x = torch.randn(8, 1, 5, 5, dtype=torch.float64)
    parameters = [p for p in net.parameters()]
    stage = net.stages[0]
    directions = [torch.randn_like(p) for p in parameters]
    held = {}

    original = ConvolutionNorms.tables

    def tables(self, kernels, *arguments):  # singular vectors held fixed: only the first call moves them
        if self not in held:
            probe = kernels.detach().clone().requires_grad_()
            held[self] = torch.autograd.grad(original(self, probe, *arguments).sum(), probe)[0]
        return (kernels * held[self]).sum((-2, -1))

    def loss(t):
        net.load_state_dict(state)
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += t * d
        return net(x).square().mean()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConvolutionNorms, "tables", tables)
        gradients = torch.autograd.grad(loss(0.0), parameters)
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
        with torch.no_grad():
            difference = ((loss(1e-6) - loss(-1e-6)) / 2e-6).item()
    assert slope == pytest.approx(difference, rel=1e-5)
    assert all(c > 1 for c in stage.constants((5, 5))), "the constraint was at work"


def test_constants_follow_weights_statistics_and_map_size():
    net = constrained_net(stages=1)
    stage = net.stages[0].eval()
    first = stage.constants((8, 8)).clone()
    assert stage.constants((8, 8)) is stage.constants((8, 8)), "computed once"
    assert not torch.equal(stage.constants((4, 4)), first)
    with torch.no_grad():
        stage.blocks[0].conv1.weight.mul_(2)
    torch.testing.assert_close(stage.constants((8, 8))[0], 2 * first[0])
    with torch.no_grad():
        stage.blocks[1].bn1.running_var.mul_(4)
    torch.testing.assert_close(stage.constants((8, 8))[1], first[1] / 2, rtol=1e-3, atol=0)
    other = constrained_net(stages=1, trained=False)
    other.eval().stages[0].constants((8, 8))
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other.stages[0].constants((8, 8)), stage.constants((8, 8)))


def test_trap_7_evaluation_moves_no_vector_and_training_does():
    net, x = constrained_net(), torch.randn(4, 1, 8, 8)
    before = copy.deepcopy(net.state_dict())
    net.eval()
    net(x)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.train()
    net(x)
    moved = [k for k, v in net.state_dict().items() if k.endswith("vectors") and not torch.equal(before[k], v)]
    assert len(moved) == 4


def test_state_goes_into_a_fresh_net_and_through_a_copy():
    net, x = constrained_net(), torch.randn(4, 1, 8, 8)
    fresh = ic.models.resnet(4, 3, 2, 1, residual="proper")
    fresh.load_state_dict(net.state_dict())
    for other in (fresh, copy.deepcopy(net)):
        assert torch.equal(net.eval()(x), other.eval()(x))
        assert torch.equal(net.train()(x), other.train()(x))
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())
        net = constrained_net()
        other.load_state_dict(net.state_dict())


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    ConvolutionNorms().tables(torch.ones(1, 2, 2, 3, 3), (4, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_audit_of_ordinary_and_constrained_nets():
    x = torch.randn(4, 1, 8, 8)
    for residual, verdicts in (
        ("ordinary", {"not contractive"}),
        ("improper", {"contractive"}),
        ("proper", {"contractive"}),
    ):
        net = constrained_net(residual)
        before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        table = ic.lipschitz.audit(net, x)
        assert list(table.columns) == ["stage", "block", "estimate", "bound", "constrained", "measured", "verdict"]
        assert table[["stage", "block"]].values.tolist() == [[s, b] for s in (0, 1) for b in (0, 1, 2)]
        assert set(table.verdict) == verdicts
        assert (table.estimate <= table.bound * (1 + 1e-5)).all() and (table.measured <= table.constrained).all()
        assert net.training and torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert (ic.lipschitz.audit(constrained_net("ordinary"), x).query("bound != constrained")).empty


def test_audit_tells_what_is_proven_from_what_is_only_observed():
    net = constrained_net("ordinary", trained=False)
    with torch.no_grad():
        for stage in net.stages:
            for block in stage.blocks:
                block.conv2.weight.mul_(0.3)
    table = ic.lipschitz.audit(net, torch.randn(4, 1, 8, 8))
    observed = table[(table.constrained >= 1) & (table.measured < 1)]
    assert len(observed) and set(observed.verdict) == {"contractive on these inputs"}


def test_audit_refuses_what_it_cannot_audit():
    net = constrained_net()
    with pytest.raises(ic.InputError, match="NaN"):
        ic.lipschitz.audit(net, torch.full((1, 1, 8, 8), float("nan")))
    with pytest.raises(ic.InputError, match="has no stem"):
        ic.lipschitz.audit(nn.Linear(2, 2), torch.zeros(1, 1, 8, 8))
    other = ic.StagedModel(nn.Identity(), [ic.Stage([nn.Conv2d(1, 1, 1)])], [], nn.Identity())
    with pytest.raises(ic.InputError, match="no `branch"):
        ic.lipschitz.audit(other, torch.zeros(1, 1, 8, 8))


def test_constants_are_computed_anew_after_changes_that_torch_does_not_count():
    stage = constrained_net(stages=1).eval().stages[0]
    first = stage.constants((8, 8)).clone()
    stage.blocks[0].conv1.weight.data.mul_(2)  # raises no version
    stage.eval()
    torch.testing.assert_close(stage.constants((8, 8))[0], 2 * first[0])
