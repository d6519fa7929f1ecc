import copy
from typing import get_args

import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.coupling import KERNELS, Kernel, coupling_matrix
from iterconv.options import KernelName

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
    nn.functional.cross_entropy(net(inputs.to(net.head.linear.weight)), targets).backward()


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


@pytest.mark.parametrize("kernel", ["uniform", "triangular"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_strength_0_is_plain_training_bit_for_bit(name, kernel):
    plain, coupled = small_net("independent"), small_net("independent")
    steps(plain, OPTIMIZERS[name](plain.parameters()))
    optimizer = OPTIMIZERS[name](coupled.parameters())
    ic.couple(optimizer, coupled.coupling_groups(), 0.0, kernel)
    steps(coupled, optimizer)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, coupled.state_dict()[key]), key


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kernel, normalise", [("uniform", True), ("triangular", True), ("triangular", False)])
def test_strength_1_keeps_blocks_bit_identical(name, kernel, normalise, clip):
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    optimizer = OPTIMIZERS[name](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 1.0, kernel, normalise=normalise)
    steps(net, optimizer, clip=clip)
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
    assert torch.equal(first.bn1.weight, second.bn1.weight)
    assert not torch.equal(first.bn1.running_mean, second.bn1.running_mean)
    backward(net)
    before = [buffer.clone() for buffer in net.buffers()]
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, net.buffers(), strict=True))


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
    nearly, tied = (coupling_matrix(16, strength, "triangular") for strength in (1 - 1e-9, 1.0))
    torch.testing.assert_close(nearly, tied, atol=1e-6, rtol=0)


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


@pytest.mark.parametrize("kernel, normalise", [("uniform", True), ("triangular", True), ("triangular", False)])
@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9])
def test_a_changed_strength_decides_what_the_next_step_uses(strength, kernel, normalise):
    net = small_net("independent").double()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    handle = ic.couple(optimizer, net.coupling_groups(first=1), 0.0, kernel, normalise=normalise)
    backward(net)
    handle.strength = strength
    matrix = naive_kernel(kernel, 4, strength, normalise)
    for stage in net.stages:
        raw = torch.stack([block.bn2.weight.grad for block in stage.blocks[1:]])
        stage.expected = [stage.blocks[0].bn2.weight - stage.blocks[0].bn2.weight.grad, *(1.0 - matrix @ raw)]
    optimizer.step()
    for stage in net.stages:
        for block, expected in zip(stage.blocks, stage.expected, strict=True):
            torch.testing.assert_close(block.bn2.weight, expected, rtol=1e-12, atol=1e-14)


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
    reference = tied.state_dict()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p, reference[name], rtol=1e-4, atol=1e-6, msg=name)


def test_late_coupling_leaves_the_first_blocks_alone():
    net = small_net()
    handle = ic.couple(OPTIMIZERS["sgd"](net.parameters()), net.coupling_groups(first=2), 1.0)
    backward(net)
    before = [block.conv1.weight.grad.clone() for block in net.stages[0].blocks]
    handle.apply_()
    after = [block.conv1.weight.grad for block in net.stages[0].blocks]
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    for gradient in after[2:]:
        torch.testing.assert_close(gradient, torch.stack(before[2:]).mean(0))


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
        fresh = OPTIMIZERS["sgd"](net.parameters())
        ic.couple(fresh, net.coupling_groups(first=1), 0.0).load_state_dict(handle.state_dict())
    with pytest.raises(ic.InputError, match="keys"):
        other.load_state_dict({"strength": 1.0})
    with pytest.raises(ic.InputError, match="strength=2.0"):
        other.strength = 2.0
    with pytest.raises(ic.InputError, match="kernel='gaussian'"):
        other.load_state_dict({**handle.state_dict(), "kernel": "gaussian"})
    assert other.state_dict() == handle.state_dict(), "a refusal changes nothing"


def test_removing_the_handle_uncouples():
    net, plain = small_net("independent"), small_net("independent")
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 1.0).remove()
    steps(net, optimizer)
    steps(plain, OPTIMIZERS["sgd"](plain.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), plain.parameters(), strict=True))


def test_the_context_manager_uncouples_at_its_end_also_after_an_error():
    net = small_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with pytest.raises(KeyError), ic.couple(optimizer, net.coupling_groups(), 1.0) as handle:
        steps(net, optimizer, 2)
        assert equal_blocks(net) and handle.strength == 1
        raise KeyError
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
    refused("strength=1.5", optimizer, [first], 1.5)
    refused("strength=-0.1", optimizer, [first], -0.1)
    refused("strength=nan", optimizer, [first], float("nan"))
    refused("kernel='gaussian'", optimizer, [first], kernel="gaussian")
    refused("group 1 has 1 module", optimizer, [first, second[:1]])
    refused("has 0 module", optimizer, [[]])
    refused("module 1 of coupling group 0 .Identity. is built", optimizer, [[first[0], nn.Identity()]])
    refused("built differently.*bn1.bias", optimizer, [[first[0], second[0]]])
    refused("occurs twice", optimizer, [[first[0], first[1], first[0]]])
    refused("occurs twice", optimizer, [first, first])
    refused("no parameters", optimizer, [[nn.ReLU(), nn.ReLU()]])
    refused("does not hold the parameters of module 1", torch.optim.SGD(first[0].parameters(), lr=0.1), [first])
    refused("not a torch optimizer", net, [first])
    refused(r"coupling group 0 \(int\) is not a list of modules", optimizer, [3])
    refused(r"groups \(int\) is not a list", optimizer, 3)
    refused("strength='a' is not a number", optimizer, [first], "a")
    refused("coupling group 1 .*is not a list of modules", optimizer, [first, [torch.ones(2), torch.ones(2)]])
    handle = ic.couple(optimizer, [first], 0.5)
    refused("coupled already", optimizer, [second, first])
    handle.remove()
    ic.couple(optimizer, [second, first], 0.5)
    shared = [nn.Linear(3, 3), nn.Linear(3, 3)]
    shared[1].weight = shared[0].weight
    refused("occurs twice", torch.optim.SGD(shared[0].parameters(), lr=0.1), [shared])


def test_missing_gradients_are_refused_before_anything_changes():
    net = small_net("independent")
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 0.5)
    backward(net)
    net.stages[1].blocks[2].conv1.weight.grad = None
    before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    weights = copy.deepcopy(net.state_dict())
    with pytest.raises(ic.InputError, match="block 3 of coupling group 2 has no gradient") as error:
        optimizer.step()
    assert "\n" not in str(error.value)
    for old, p in zip(before, net.parameters(), strict=True):
        assert (old is None and p.grad is None) or torch.equal(old, p.grad), "a refused step mixes nothing"
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in weights.items())


def test_no_gradients_at_all_are_nothing_to_couple():
    net = small_net("independent")
    before = copy.deepcopy(net.state_dict())
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ic.couple(optimizer, net.coupling_groups(), 1.0)
    optimizer.step(closure=None)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_sparse_gradients_are_refused():
    tables = [nn.Embedding(4, 2, sparse=True) for _ in range(2)]
    optimizer = torch.optim.SGD([table.weight for table in tables], lr=0.1)
    ic.couple(optimizer, [tables], 0.5)
    sum(table(torch.tensor([1])).sum() for table in tables).backward()
    with pytest.raises(ic.InputError, match="sparse"):
        optimizer.step()


def test_a_wrapped_optimizer_is_unwrapped():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    net = small_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ic.couple(Wrapper(optimizer), net.coupling_groups(), 1.0)
    steps(net, optimizer, 2)
    assert equal_blocks(net)


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


def test_optimizers_that_never_run_their_hooks_are_refused():
    class Wrapper(torch.optim.Optimizer):
        """As timm's Lookahead: it never calls its parent's constructor."""

        def __init__(self, base):
            self.base, self.param_groups = base, base.param_groups

        def step(self, closure=None):
            return self.base.step(closure)

    blocks = [nn.Linear(3, 3), nn.Linear(3, 3)]
    base = torch.optim.SGD([p for block in blocks for p in block.parameters()], lr=0.1)
    with pytest.raises(ic.InputError, match="Wrapper does not run torch's step hooks"):
        ic.couple(Wrapper(base), [blocks], 0.5)
    with pytest.raises(ic.InputError, match=r"groups=\[\] couples nothing"):
        ic.couple(base, [], 0.5)
    ic.couple(base, [], 0.0)


# Kernels of users


class Neighbours(Kernel):
    """Each block is coupled with the next one."""

    name = "neighbours"

    def matrix(self, count, strength, normalise):
        eye = torch.eye(count, dtype=torch.float64)
        return (1 - strength) * eye + strength * eye.roll(1, 0)


def test_a_users_kernel_decides_what_the_next_step_uses(registries):
    net = small_net("independent").double()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    says = "kernel='neighbours' is unknown; use 'uniform' or 'triangular'"
    refused(says, optimizer, net.coupling_groups(), kernel="neighbours")
    ic.coupling.register(Neighbours())
    handle = ic.couple(optimizer, net.coupling_groups(), 0.3, "neighbours")
    backward(net)
    blocks = net.stages[1].blocks
    raw = [block.conv1.weight.grad.clone() for block in blocks]
    before = [block.conv1.weight.detach().clone() for block in blocks]
    optimizer.step()
    for t, block in enumerate(blocks):
        torch.testing.assert_close(before[t] - block.conv1.weight, 0.7 * raw[t] + 0.3 * raw[t - 1])
    state = handle.state_dict()
    other = ic.couple(torch.optim.SGD(net.parameters(), lr=1.0), net.coupling_groups(), 0.0)
    other.load_state_dict(state)
    assert other.kernel == "neighbours" and torch.equal(other.matrix(5), handle.matrix(5))


@pytest.mark.parametrize(
    "matrix",
    [torch.ones(3, 3), torch.full((2, 2), float("nan")), [[1.0, 0.0], [0.0, 1.0]]],
    ids=["size", "nan", "list"],
)
def test_kernels_whose_matrix_does_not_fit_are_refused_before_training(registries, matrix):
    class Wrong(Neighbours):
        name = "wrong"

        def matrix(self, count, strength, normalise):
            return matrix

    ic.coupling.register(Wrong())
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    refused(
        "the matrix of kernel 'wrong' for 2 blocks .* not a finite", optimizer, net.coupling_groups(), kernel="wrong"
    )
    ic.couple(optimizer, net.coupling_groups(), 0.5)  # nothing was left on the optimizer
    for kernel, says in (
        (Wrong, "is not an instance of iterconv.coupling.kernels.Kernel; pass one"),
        (Kernel(), "has no name; give it one"),
    ):
        with pytest.raises(ic.InputError, match=says):
            ic.coupling.register(kernel)
    assert list(KERNELS) == ["uniform", "triangular", "wrong"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_handle_shows_the_matrix_of_every_kernel(kernel, strength):
    net = small_net()
    handle = ic.couple(torch.optim.SGD(net.parameters(), lr=0.1), net.coupling_groups(), 0.5, kernel)
    torch.testing.assert_close(handle.matrix(5), naive_kernel(kernel, 5, 0.5, True))
    handle.strength = strength
    torch.testing.assert_close(handle.matrix(5), naive_kernel(kernel, 5, strength, True))


def test_the_kernels_of_a_run_are_those_of_iterconv():
    assert get_args(KernelName) == tuple(KERNELS)
