import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import iterconv as ic
from iterconv.spectral.convolutions import ConvolutionNorms, Convolutions
from iterconv.spectral.iteration import converged_norms, power_iteration


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


def operator_norms(kernels, size, *factors):
    """Norms of diag(left) Conv diag(right) in double precision."""
    maps = Convolutions(kernels.detach().double(), *(f if f is None else f.double() for f in factors))
    return converged_norms(maps, maps.start(size), tolerance=1e-10)


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
    torch.manual_seed(0)
    kernel = torch.rand(1, 4, 4, 3, 3) * 0.2 + 1  # smooth and positive
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
    maps = Convolutions(kernels)
    norms = torch.stack([power_iteration(maps, maps.start((6, 6)), steps=n)[2] for n in (1, 2, 5, 20, 200)])
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
    torch.testing.assert_close(norms.estimate(Convolutions(kernels), (5, 5)), exact, rtol=1e-4, atol=0)
    assert torch.equal(norms.vectors, before), "evaluating does not move the state"


@pytest.mark.medium
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


@pytest.mark.parametrize("residual", ["ordinary", "improper", "proper"])
@pytest.mark.medium
def test_measured_constant_is_the_largest_dense_jacobian_norm(residual):
    net = constrained_net(residual, stages=1, blocks=2)
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


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("mu", [0.5, 0.95])
def test_a_tied_properly_convergent_stage_contracts_to_one_fixed_point(trained, mu):
    net = constrained_net(stages=1, blocks=1, trained=trained, lipschitz=mu).double().eval()
    stage, x = net.stages[0], torch.randn(6, 4, 8, 8, dtype=torch.float64)
    z, y = torch.randn_like(x) * 10, torch.randn_like(x) * 10
    for _ in range(400):
        distance = (z - y).flatten(1).norm(dim=1)
        z, y = stage.step(0, z, x), stage.step(0, y, x)
        assert ((z - y).flatten(1).norm(dim=1) <= mu * distance + 1e-13).all()
    torch.testing.assert_close(z, y, atol=1e-6, rtol=0)
    torch.testing.assert_close(stage.step(0, z, x), z, atol=1e-6, rtol=0)
    assert not torch.allclose(z, x), "and not the trivial one"


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


@pytest.mark.medium
def test_training_divides_by_the_bound_with_batch_variances():
    net = constrained_net(stages=1, blocks=2)
    stage = net.stages[0].double()
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


@pytest.mark.parametrize("residual", ["improper", "proper"])
def test_the_training_forward_is_f_over_c_with_the_stages_own_vectors(residual):
    """One power step with the running variances before the forward; then u' diag(l) Conv diag(r) v with the batch's."""
    torch.manual_seed(0)
    stage = constrained_net(residual, stages=1).double().stages[0]
    size, x = (6, 5), torch.randn(8, 4, 6, 5, dtype=torch.float64) * 2
    stage(x)
    norms = {"inner": stage.inner_norms, "outer": stage.outer_norms}
    before = {name: norm.vectors.flatten(1).clone() for name, norm in norms.items()}
    frozen = copy.deepcopy(stage)  # weights and running statistics before the forward
    actual = stage(x)

    z = x
    for index, block in enumerate(frozen.blocks):
        inner, left, right = block.conv1.weight, diagonal(block.bn2), diagonal(block.bn1)
        bound = 1.0
        hidden = F.conv2d(F.relu(block.bn1(z)), inner, padding=1)
        batch_left, batch_right = (
            bn.weight / torch.sqrt(maps.var((0, 2, 3), correction=0) + bn.eps)
            for bn, maps in ((block.bn2, hidden), (block.bn1, z))
        )
        for name, running, batch in (
            ("inner", dense(inner, size, left, right), dense(inner, size, batch_left, batch_right)),
            ("outer", dense(block.conv2.weight, size), dense(block.conv2.weight, size)),
        ):
            u = running @ before[name][index]
            u = u / u.norm()
            v = running.T @ u
            v = v / v.norm()
            torch.testing.assert_close(norms[name].vectors[index].flatten(), v)
            bound = bound * (u @ batch @ v)
        assert bound > 0.95
        f = F.conv2d(F.relu(block.bn2(hidden)), block.conv2.weight, padding=1)
        z = (x if residual == "proper" else z) + f * 0.95 / bound
    torch.testing.assert_close(actual, z, rtol=1e-9, atol=1e-9)


def test_gradient_of_training_equals_finite_differences():
    net = constrained_net("improper", stages=1, blocks=2).double()
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
    assert torch.equal(stage.constants((8, 8))[2], first[2])
    with torch.no_grad():
        stage.blocks[2].bn2.weight.mul_(3)
    torch.testing.assert_close(stage.constants((8, 8))[2], 3 * first[2])
    other = constrained_net(stages=1, trained=False)
    other.eval().stages[0].constants((8, 8))
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other.stages[0].constants((8, 8)), stage.constants((8, 8)))


def fresh_constants(stage, size=(8, 8)):
    """As a copy has them that never computed any."""
    other = ic.models.resnet(4, len(stage), 1, 1, residual="proper").stages[0].eval()
    other.load_state_dict(stage.state_dict())
    return other.constants(size)


def test_constants_follow_a_forward_in_training_although_no_weight_changes():
    """Batch norm moves its running variance without raising the tensor's version."""
    net = constrained_net(stages=1).eval()
    stage = net.stages[0]
    before = stage.constants((8, 8)).clone()
    net.train()(torch.randn(16, 1, 8, 8) * 10 + 3)
    after = net.eval().stages[0].constants((8, 8))
    torch.testing.assert_close(after, fresh_constants(stage))
    assert (after < before * 0.9).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_constants_follow_an_optimizer_step_in_evaluation(make, fused):
    net = constrained_net(stages=1).eval()
    optimizer = make(net.parameters(), lr=0.05, fused=fused)  # the fused ones raise no version
    before = net.stages[0].constants((8, 8)).clone()
    net(torch.randn(4, 1, 8, 8)).logsumexp(1).sum().backward()
    optimizer.step()
    after = net.stages[0].constants((8, 8))
    torch.testing.assert_close(after, fresh_constants(net.stages[0]))
    assert not torch.equal(before, after)


def test_constants_follow_a_replaced_parameter():
    stage = constrained_net(stages=1).eval().stages[0]
    for scale in range(1, 6):
        stage.blocks[0].conv2.weight = nn.Parameter(torch.randn(4, 4, 3, 3) * scale)
        torch.testing.assert_close(stage.constants((8, 8)), fresh_constants(stage))


def test_constants_do_not_depend_on_where_the_vectors_have_settled():
    """Vectors that have lost a channel altogether: norms iterated from them would miss the operator's largest."""
    torch.manual_seed(0)
    stage = ic.models.resnet(2, 1, 1, 1, residual="proper").stages[0]
    kernels = stage.blocks[0].conv1.weight, stage.blocks[0].conv2.weight
    with torch.no_grad():
        for kernel in kernels:  # channels that do not mix, the first three times as large
            kernel.copy_(torch.eye(2)[:, :, None, None] * torch.tensor([3.0, 1.0])[:, None, None, None])
            kernel.mul_(torch.rand_like(kernel) + 0.2)
    for _ in range(150):
        stage(torch.randn(8, 2, 6, 6))
    assert not stage.outer_norms.vectors[0, 1].any(), "the second channel is lost"
    with torch.no_grad():
        for kernel in kernels:
            kernel[1].mul_(10)
    jacobian = torch.func.jacrev(lambda x: stage.eval().branch(0, x[None])[0])(torch.randn(2, 6, 6) * 3)
    assert torch.linalg.matrix_norm(jacobian.reshape(72, 72), ord=2) <= 0.95


def test_constants_computed_in_inference_mode_serve_gradients_later():
    net, x = constrained_net().eval(), torch.randn(4, 1, 8, 8)
    with torch.inference_mode():
        expected = net(x)
    actual = net(x)
    actual.sum().backward()
    assert torch.equal(actual, expected) and net.stem.weight.grad.any()


def test_constants_computed_under_autocast_are_no_coarser():
    stage, z = constrained_net(stages=1).eval().stages[0], torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stage(z)
    torch.testing.assert_close(stage.constants((8, 8)), fresh_constants(stage))


def test_weights_that_are_not_finite_give_nan_not_an_error():
    net, x = constrained_net().eval(), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        net.stages[0].blocks[1].conv1.weight[0, 0, 0, 0] = float("nan")
    assert net.stages[0].constants((8, 8)).isnan().tolist() == [False, True, False]
    assert net(x).isnan().all()
    row = ic.lipschitz.audit(net, x).iloc[1]
    assert row[["bound", "measured"]].isna().all() and row.verdict == "unknown"


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


def test_a_state_loads_into_another_precision():
    net, x = constrained_net(), torch.randn(4, 1, 8, 8)
    double = ic.models.resnet(4, 3, 2, 1, residual="proper").double()
    double.load_state_dict(net.state_dict())
    assert {buffer.dtype for name, buffer in double.named_buffers() if "vectors" in name} == {torch.float64}
    torch.testing.assert_close(double.eval()(x.double()), net.eval()(x).double(), rtol=1e-3, atol=1e-3)
    double.train()(x.double())


def test_loading_is_strict_about_the_vectors():
    net = constrained_net()
    state = {k: v for k, v in net.state_dict().items() if k != "stages.1.inner_norms.vectors"}
    with pytest.raises(RuntimeError, match="Missing key.*stages.1.inner_norms.vectors"):
        net.load_state_dict(state)
    ordinary = ic.models.resnet(4, 3, 2, 1)
    with pytest.raises(RuntimeError, match="Unexpected key.*vectors"):
        ordinary.load_state_dict(net.state_dict())


def test_an_untrained_state_empties_the_vectors_of_a_trained_net():
    net, x = constrained_net(), torch.randn(4, 1, 8, 8)
    fresh = ic.models.resnet(4, 3, 2, 1, residual="proper")
    net.load_state_dict(fresh.state_dict())
    assert net.stages[0].inner_norms.vectors.numel() == 0
    assert torch.equal(net(x), fresh(x))


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    ConvolutionNorms().tables(torch.ones(1, 2, 2, 3, 3), (4, 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.extended
@pytest.mark.medium
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
        assert list(table.columns) == [
            "stage",
            "block",
            "estimate",
            "bound",
            "constrained",
            "measured",
            "verdict",
            "not_covered",
        ]
        assert table[["stage", "block"]].values.tolist() == [[s, b] for s in (0, 1) for b in (0, 1, 2)]
        assert set(table.verdict) == verdicts
        assert (table.estimate <= table.bound * (1 + 1e-5)).all() and (table.measured <= table.constrained).all()
        if residual != "ordinary":
            c = torch.cat([net.stages[s].constants((8 // 2**s,) * 2) for s in (0, 1)]).double()
            assert (table.measured * c.numpy() <= table.bound).all(), "the bound is one of f itself"
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
    with pytest.raises(ic.InputError, match="at least one example"):
        ic.lipschitz.audit(net, torch.zeros(0, 1, 8, 8))
    with pytest.raises(ic.InputError, match="iterations=0"):
        ic.lipschitz.audit(net, torch.zeros(1, 1, 8, 8), iterations=0)
    with pytest.raises(ic.InputError, match="rejects the batch"):
        ic.lipschitz.audit(nn.Linear(2, 2), torch.zeros(1, 1, 8, 8))


def test_constants_are_computed_anew_after_changes_that_torch_does_not_count():
    stage = constrained_net(stages=1).eval().stages[0]
    first = stage.constants((8, 8)).clone()
    stage.blocks[0].conv1.weight.data.mul_(2)  # raises no version
    stage.eval()
    torch.testing.assert_close(stage.constants((8, 8))[0], 2 * first[0])


class Normed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, z):
        return z + self.linear(self.norm(z))


@pytest.mark.parametrize("largest, verdict", [(1.004, "not contractive"), (0.97, "contractive on these inputs")])
def test_measured_constants_are_iterated_until_they_settle(largest, verdict):
    torch.manual_seed(0)
    model = nn.Sequential(*(Normed(64) for _ in range(2))).eval()
    x = torch.randn(4, 64)

    def true_constants():
        z = x
        for block in model:
            jacobians = [torch.func.jacrev(lambda v, b=block: b(v) - v)(row) for row in z]
            yield block, max(torch.linalg.svdvals(jacobian)[0].item() for jacobian in jacobians)
            z = block(z)

    for block, constant in true_constants():
        with torch.no_grad():
            block.linear.weight.mul_(largest / constant)
    table = ic.audit(model, x)
    for row, (_, constant) in zip(table.itertuples(), true_constants(), strict=True):
        assert row.measured == pytest.approx(constant, rel=2e-3)
    assert table.verdict.tolist() == [verdict] * 2
