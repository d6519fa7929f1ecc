import math

import pytest
import torch
from torch import nn

import iterconv as ic


def small_net(init="independent"):
    torch.manual_seed(0)
    return ic.models.resnet(width=4, blocks=5, stages=2, in_channels=1, init=init)


def naive_deviation(groups):
    """The sum of |D| over all groups, tensor by tensor and block by block, in double precision."""
    total = 0.0
    for group in groups:
        for name, _ in group[0].named_parameters():
            weights = torch.stack([module.get_parameter(name).detach().double() for module in group])
            sigma = ((weights - weights.mean()) ** 2).mean().sqrt()
            for own in weights:
                total += ((own - weights.mean(0)).abs().sum() / sigma).item() if sigma > 0 else 0.0
    return total


def sizes(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("first", [0, 2, 3])
def test_it_equals_the_formula(first):
    net = small_net()
    with torch.no_grad():  # batch norms that differ too, on other scales than the weights
        for number, norm in enumerate(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.copy_(torch.randn(norm.weight.shape) * number)
            norm.bias.copy_(torch.rand(norm.bias.shape) * 100)
    groups = net.coupling_groups(first)
    count = ic.effective_parameter_count(net, groups)
    coupled = sizes(*groups[0], *groups[1])
    assert count.raw == sizes(net)
    assert count.tied == count.raw - coupled + sizes(groups[0][0], groups[1][0])
    assert count.effective == pytest.approx(count.tied + naive_deviation(groups), rel=1e-12)
    assert count.mean_deviation == pytest.approx(naive_deviation(groups) / coupled, rel=1e-12)


def test_two_single_weights_lie_one_standard_deviation_from_their_mean():
    layers = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(2)])
    layers[0].weight.data.fill_(-7.0)
    layers[1].weight.data.fill_(3.0)
    assert ic.effective_parameter_count(layers, [list(layers)]) == (2, 1, 3.0, 1.0)


def test_independent_normal_weights_deviate_as_expected():
    torch.manual_seed(0)
    layers = nn.Sequential(*[nn.Linear(100, 100, bias=False) for _ in range(4)])
    for layer in layers:
        nn.init.normal_(layer.weight)
    expected = math.sqrt(2 / math.pi * (1 - 1 / 4))  # E|N(0, 1 - 1/T)|
    assert ic.effective_parameter_count(layers, [list(layers)]).mean_deviation == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_tied_blocks_count_once_exactly_also_while_they_train(make, first):
    net = small_net("recurrent")
    optimizer = make(net.parameters(), lr=0.1)
    groups = net.coupling_groups(first)
    ic.couple(optimizer, groups, 1.0)
    for _ in range(4):
        count = ic.effective_parameter_count(net, groups)
        once = sizes(net) - sum(sizes(*group[1:]) for group in groups)
        assert count == (sizes(net), once, once, 0.0)
        optimizer.zero_grad()
        net(torch.randn(8, 1, 8, 8)).logsumexp(1).sum().backward()
        optimizer.step()


def test_one_differing_entry_leaves_the_tied_count():
    net = small_net("recurrent")
    with torch.no_grad():
        net.stages[1].blocks[3].conv1.weight[0, 0, 0, 0] += 1e-6
    count = ic.effective_parameter_count(net, net.coupling_groups())
    assert count.tied < count.effective < count.tied + 1e-3


def test_equal_scales_and_biases_count_as_tied():
    """0/0 = 0: batch norms that all stand at their initial 1 and 0 deviate by nothing."""
    net = small_net()
    norms = [[block.bn1 for block in stage.blocks] for stage in net.stages]
    count = ic.effective_parameter_count(net, norms)
    assert count.effective == count.tied == count.raw - 2 * 4 * (4 + 8) and count.mean_deviation == 0


def test_tied_weights_whose_mean_could_round_count_once_exactly():
    layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(3)])  # a mean of three can round
    for layer in layers:
        layer.load_state_dict({"weight": torch.full((3, 3), 0.1) + torch.eye(3) / 7, "bias": torch.full((3,), 0.1)})
    assert ic.effective_parameter_count(layers, [list(layers)]) == (36, 12, 12, 0.0)


def test_the_scale_of_a_tensor_does_not_matter():
    net = small_net()
    count = ic.effective_parameter_count(net, net.coupling_groups())
    with torch.no_grad():
        for number in range(len(list(net.stages[0].blocks[0].parameters()))):
            for block in net.stages[0].blocks:
                list(block.parameters())[number].mul_(2.0 ** (number - 3))
    assert ic.effective_parameter_count(net, net.coupling_groups()) == count, "powers of two, so bit for bit"


def test_only_coupled_parameters_are_compared():
    net = small_net()
    groups = net.coupling_groups(first=3)
    count = ic.effective_parameter_count(net, groups)
    with torch.no_grad():
        for module in (net.stem, net.transitions, net.head, *net.stages[0].blocks[:3]):
            for p in module.parameters():
                p.add_(torch.randn(p.shape))
    assert ic.effective_parameter_count(net, groups) == count
    raw = sizes(net)
    assert ic.effective_parameter_count(net, []) == (raw, raw, raw, 0.0)


def test_the_model_is_left_alone():
    net = small_net()
    before = [p.detach().clone() for p in net.parameters()]
    ic.effective_parameter_count(net, net.coupling_groups())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_groups_that_do_not_fit_are_refused():
    net, other = small_net(), small_net()
    first, second = net.coupling_groups()
    for says, groups in (
        ("not StagedModel's", other.coupling_groups()),
        ("not StagedModel's", [[first[0], other.stages[0].blocks[1]]]),
        ("occurs twice", [first, first]),
        ("occurs twice", [[first[0], first[0]]]),
        ("group 0 has 1 module", [first[:1]]),
        ("built differently from module 0 in bn1.bias", [[first[0], second[0]]]),
        ("no parameters", [[nn.ReLU(), nn.ReLU()]]),
    ):
        with pytest.raises(ic.InputError, match=says) as error:
            ic.effective_parameter_count(net, groups)
        assert "\n" not in str(error.value)
