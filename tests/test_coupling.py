import copy

import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.coupling import coupling_matrix

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def small_net(init="recurrent", blocks=5, seed=0):
    torch.manual_seed(seed)
    return ic.models.resnet(width=4, blocks=blocks, stages=2, in_channels=1, init=init)


def steps(net, optimizer, count=4, clip=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        inputs = torch.randn(16, 1, 8, 8, generator=generator)
        targets = torch.randint(10, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()


def backward(net, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(16, 1, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)
    net.zero_grad()
    nn.functional.cross_entropy(net(inputs), targets).backward()


def equal_blocks(net):
    return all(
        torch.equal(p, q)
        for group in net.coupling_groups()
        for block in group[1:]
        for p, q in zip(group[0].parameters(), block.parameters(), strict=True)
    )


def naive_kernel(kernel, size, lam, normalise):
    """The text's formulas, entry by entry."""
    rows = []
    for t in range(size):
        row = []
        for s in range(size):
            if kernel == "uniform":
                value = (1 - lam) + lam / size if s == t else lam / size
            elif lam == 0:
                value = float(s == t)
            elif lam >= 0.5:
                value = max(1 - 2 * (1 - lam) / size * abs(s - t), 0)
            else:
                value = max(1 - 1 / (2 * lam * size) * abs(s - t), 0)
            row.append(value)
        total = sum(row) if kernel == "triangular" and normalise else 1
        rows.append([value / total for value in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_strength_0_is_plain_training_bit_for_bit(name):
    plain, coupled = small_net("independent"), small_net("independent")
    steps(plain, OPTIMIZERS[name](plain.parameters()))
    optimizer = OPTIMIZERS[name](coupled.parameters())
    ic.couple(optimizer, coupled.coupling_groups(), 0.0)
    steps(coupled, optimizer)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, coupled.state_dict()[key]), key


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kernel, normalise", [("uniform", True), ("triangular", True), ("triangular", False)])
def test_strength_1_keeps_blocks_bit_identical(name, kernel, normalise):
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    optimizer = OPTIMIZERS[name](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 1.0, kernel, normalise=normalise)
    steps(net, optimizer, count=8, clip=1.0)
    assert equal_blocks(net)
    assert not torch.equal(before["stages.0.blocks.0.conv1.weight"], net.stages[0].blocks[0].conv1.weight)


def test_without_coupling_blocks_that_start_equal_part():
    net = small_net()
    steps(net, OPTIMIZERS["sgd"](net.parameters()))
    assert not equal_blocks(net)


def test_running_statistics_are_never_coupled():
    net = small_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 1.0)
    steps(net, optimizer)
    first, second = net.stages[0].blocks[0], net.stages[0].blocks[1]
    assert not torch.equal(first.bn1.running_mean, second.bn1.running_mean)


@pytest.mark.parametrize("size", [2, 5, 16])
@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kernel, normalise", [("uniform", True), ("triangular", True), ("triangular", False)])
def test_kernels_are_the_papers(size, strength, kernel, normalise):
    matrix = coupling_matrix(size, strength, kernel, normalise)
    torch.testing.assert_close(matrix, naive_kernel(kernel, size, strength, normalise))
    if normalise:
        torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))
    if strength == 0:
        assert torch.equal(matrix, torch.eye(size, dtype=torch.float64))
    if strength == 1:
        expected = 1.0 if not normalise else 1 / size
        torch.testing.assert_close(matrix, torch.full((size, size), expected, dtype=torch.float64))


def test_triangular_kernel_is_continuous_where_its_halves_meet():
    below, above = coupling_matrix(16, 0.5 - 1e-9, "triangular"), coupling_matrix(16, 0.5, "triangular")
    torch.testing.assert_close(below, above, atol=1e-6, rtol=0)
    torch.testing.assert_close(coupling_matrix(16, 1e-9, "triangular"), torch.eye(16, dtype=torch.float64))


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kernel, normalise", [("uniform", True), ("triangular", True), ("triangular", False)])
def test_the_gradients_used_are_the_kernels_mixture(strength, kernel, normalise):
    net = small_net("independent")
    handle = ic.couple(
        OPTIMIZERS["sgd"](net.parameters()), net.coupling_groups(), strength, kernel, normalise=normalise
    )
    backward(net)
    raw = [[p.grad.double().clone() for p in block.parameters()] for block in net.stages[1].blocks]
    outside = net.head.linear.weight.grad.clone()
    handle.apply_()
    matrix = naive_kernel(kernel, 5, strength, normalise)
    for t, block in enumerate(net.stages[1].blocks):
        for number, parameter in enumerate(block.parameters()):
            expected = sum(matrix[t, s] * raw[s][number] for s in range(5))
            torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(net.head.linear.weight.grad, outside)


def test_one_step_at_strength_1_is_hard_tying_with_the_mean_gradient():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ic.couple(optimizer, net.coupling_groups(), 1.0)
    tied = small_net()
    for stage in tied.stages:  # every block uses the very parameters of the first, and only its own statistics
        for block in list(stage.blocks)[1:]:
            for name, _ in list(block.named_parameters()):
                owner, attribute = name.rsplit(".", 1)
                setattr(
                    block.get_submodule(owner), attribute, stage.blocks[0].get_submodule(owner).get_parameter(attribute)
                )
    backward(tied)
    with torch.no_grad():
        shared = {id(p) for stage in tied.stages for p in stage.blocks[0].parameters()}
        for p in tied.parameters():
            p -= 0.1 * p.grad / (5 if id(p) in shared else 1)  # the sum over 5 uses, as a mean
    backward(net)
    optimizer.step()
    for (name, p), q in zip(
        net.stages[0].blocks[3].named_parameters(), tied.stages[0].blocks[0].parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=name)


def test_late_coupling_leaves_the_first_blocks_alone():
    net = small_net()
    handle = ic.couple(OPTIMIZERS["sgd"](net.parameters()), net.coupling_groups(first=2), 1.0)
    backward(net)
    before = [block.conv1.weight.grad.clone() for block in net.stages[0].blocks]
    handle.apply_()
    after = [block.conv1.weight.grad for block in net.stages[0].blocks]
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    assert torch.equal(after[2], after[4]) and not torch.equal(before[2], after[2])


def test_gradients_that_accumulate_are_coupled_once_at_the_step():
    net = small_net("independent")
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    ic.couple(optimizer, net.coupling_groups(), 0.5)
    weights = [block.conv1.weight.detach().clone() for block in net.stages[0].blocks]
    backward(net)
    loss = net(torch.randn(8, 1, 8, 8)).logsumexp(1).mean()
    loss.backward()  # adds to the first
    raw = torch.stack([block.conv1.weight.grad for block in net.stages[0].blocks])
    optimizer.step()
    expected = 0.5 * raw + 0.5 * raw.mean(0)
    for t, block in enumerate(net.stages[0].blocks):
        torch.testing.assert_close(weights[t] - block.conv1.weight, expected[t], rtol=1e-4, atol=1e-6)


def test_the_dial_turns_during_training_and_its_state_is_kept():
    net = small_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    handle = ic.couple(optimizer, net.coupling_groups(), 1.0, "triangular", normalise=False)
    steps(net, optimizer, 2)
    assert equal_blocks(net)
    handle.strength = 0.25
    steps(net, optimizer, 2)
    assert not equal_blocks(net) and handle.strength == 0.25
    other = ic.couple(OPTIMIZERS["sgd"](net.parameters()), net.coupling_groups(), 0.0)
    other.load_state_dict(handle.state_dict())
    assert other.state_dict() == handle.state_dict() and other.kernel == "triangular" and not other.normalise
    with pytest.raises(ic.InputError, match=r"groups of \[5, 5\] blocks, these are of \[4, 4\]"):
        ic.couple(optimizer, net.coupling_groups(first=1), 0.0).load_state_dict(handle.state_dict())
    with pytest.raises(ic.InputError, match="keys"):
        other.load_state_dict({"strength": 1.0})


def test_removing_the_handle_uncouples():
    net = small_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with ic.couple(optimizer, net.coupling_groups(), 1.0):
        steps(net, optimizer, 2)
    assert equal_blocks(net)
    steps(net, optimizer, 2)
    assert not equal_blocks(net)


def refused(match, optimizer, groups, strength=0.5, **options):
    with pytest.raises(ic.InputError, match=match) as error:
        ic.couple(optimizer, groups, strength, **options)
    assert "\n" not in str(error.value)


def test_wrong_groups_and_options_are_refused():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first, second = net.coupling_groups()
    refused("strength 1.5", optimizer, [first], 1.5)
    refused("strength nan", optimizer, [first], float("nan"))
    refused("kernel 'gaussian'", optimizer, [first], kernel="gaussian")
    refused("has 1 module", optimizer, [first[:1]])
    refused("built differently.*bn1.bias", optimizer, [[first[0], second[0]]])
    refused("occurs twice", optimizer, [[first[0], first[1], first[0]]])
    refused("occurs twice", optimizer, [first, first])
    refused("no parameters", optimizer, [[nn.ReLU(), nn.ReLU()]])
    refused("does not hold the parameters of module 1", torch.optim.SGD(first[0].parameters(), lr=0.1), [first])
    refused("no torch optimizer", net, [first])
    shared = [nn.Linear(3, 3), nn.Linear(3, 3)]
    shared[1].weight = shared[0].weight
    refused("occurs twice", torch.optim.SGD(shared[0].parameters(), lr=0.1), [shared])


def test_missing_gradients_and_closures_are_refused():
    net = small_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 0.5)
    backward(net)
    net.stages[0].blocks[2].conv1.weight.grad = None
    with pytest.raises(ic.InputError, match="block 2 of coupling group 0 has no gradient"):
        optimizer.step()
    with pytest.raises(ic.InputError, match="closure"):
        optimizer.step(lambda: torch.zeros(()))
    optimizer.zero_grad()
    optimizer.step()  # none at all is fine: nothing to couple


def test_frozen_blocks_need_no_optimizer():
    net = small_net()
    for block in net.stages[0].blocks:
        block.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    ic.couple(optimizer, net.coupling_groups(), 1.0)
    steps(net, optimizer)
    assert equal_blocks(net)


def test_any_equal_modules_can_be_coupled():
    layers = nn.Sequential(*[nn.Linear(6, 6) for _ in range(3)])
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    optimizer = torch.optim.RMSprop(layers.parameters(), lr=0.01)
    ic.couple(optimizer, [list(layers)], 1.0)
    for _ in range(3):
        optimizer.zero_grad()
        layers(torch.randn(5, 6)).square().mean().backward()
        optimizer.step()
    assert torch.equal(layers[0].weight, layers[2].weight)


# Effective parameter count


def naive_count(net, groups):
    coupled = [id(p) for group in groups for module in group for p in module.parameters()]
    total = sum(p.numel() for p in net.parameters() if id(p) not in coupled)
    for group in groups:
        for parallel in zip(*[list(module.parameters()) for module in group], strict=True):
            weights = torch.stack(list(parallel)).double()
            sigma = weights.flatten().std(correction=0)
            total += parallel[0].numel()
            if sigma > 0:
                total += ((weights - weights.mean(0)) / sigma).abs().sum().item()
    return total


@pytest.mark.parametrize("first", [0, 2])
def test_effective_count_equals_the_formula(first):
    net = small_net("independent")
    groups = net.coupling_groups(first)
    count = ic.effective_parameter_count(net, groups)
    assert count.effective == pytest.approx(naive_count(net, groups), rel=1e-9)
    assert count.raw == sum(p.numel() for p in net.parameters()) and count.tied < count.effective < count.raw


def test_effective_count_of_tied_blocks_is_the_tied_count_exactly():
    net = small_net()
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 1.0)
    for _ in range(2):
        count = ic.effective_parameter_count(net, net.coupling_groups())
        assert count.effective == count.tied and count.mean_deviation == 0
        steps(net, optimizer)


def test_effective_count_ignores_scale_and_counts_coupling_only():
    net = small_net("independent")
    count = ic.effective_parameter_count(net, net.coupling_groups())
    with torch.no_grad():
        for p in net.parameters():
            p *= 3
    scaled = ic.effective_parameter_count(net, net.coupling_groups())
    assert scaled.effective == pytest.approx(count.effective)
    assert ic.effective_parameter_count(net, []) == (count.raw, count.raw, count.raw, 0.0)


def test_effective_count_refuses_what_does_not_belong_together():
    net, other = small_net(), small_net()
    with pytest.raises(ic.InputError, match="not StagedModel's"):
        ic.effective_parameter_count(net, other.coupling_groups())
    with pytest.raises(ic.InputError, match="occurs twice"):
        ic.effective_parameter_count(net, net.coupling_groups() * 2)
