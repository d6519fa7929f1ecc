import copy

import pytest
import torch
from torch.nn import functional as F

import iterconv as ic
from iterconv.models import resnet
from iterconv.models.blocks import DownsamplingBlock, ResidualBlock


@pytest.mark.parametrize(
    "stages, channels, width, raw, tied",
    [
        (3, 3, 8, 408_690, 42_450),
        (3, 3, 16, 1_626_074, 167_834),
        (3, 3, 32, 6_486_954, 667_434),
        (3, 3, 64, 25_913_162, 2_661_962),
        (1, 1, 8, 19_122, 1_362),
        (1, 1, 16, 75_098, 5_018),
        (1, 1, 32, 297_642, 19_242),
        (1, 1, 64, 1_185_098, 75_338),
    ],
)
def test_parameter_counts_are_the_papers(stages, channels, width, raw, tied):
    net = resnet(width=width, blocks=16, stages=stages, in_channels=channels, init="recurrent")
    assert sum(p.numel() for p in net.parameters()) == raw
    count = ic.effective_parameter_count(net, net.coupling_groups())
    assert (count.raw, count.tied, count.effective) == (raw, tied, tied)
    once = sum(p.numel() for name, p in net.named_parameters() if ".blocks." not in name or ".blocks.0." in name)
    assert once == tied


def normalise(x, bn, training):
    mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if training else (bn.running_mean, bn.running_var)
    scaled = (x - mean[:, None, None]) / torch.sqrt(var + bn.eps)[:, None, None]
    return scaled * bn.weight[:, None, None] + bn.bias[:, None, None]


def branch(z, block, training, stride=1):
    """Conv2(ReLU(BN2(Conv1(ReLU(BN1(z)))))), written out."""
    hidden = normalise(z, block.bn1, training).clamp(min=0)
    hidden = F.conv2d(hidden, block.conv1.weight, padding=1, stride=stride)
    return F.conv2d(normalise(hidden, block.bn2, training).clamp(min=0), block.conv2.weight, padding=1)


def unsettle_(module):
    """Batch norms as after training: no scale, bias or statistic at its initial value."""
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data = torch.rand(tensor.shape).to(tensor) + 0.5
    return module


@pytest.mark.parametrize("training", [True, False])
def test_block_is_the_papers_sequence(training):
    torch.manual_seed(0)
    block, z = unsettle_(ResidualBlock(4)).double().train(training), torch.randn(8, 4, 6, 5, dtype=torch.float64)
    expected = branch(z, block, training)
    torch.testing.assert_close(copy.deepcopy(block).branch(z), expected)
    torch.testing.assert_close(block(z), z + expected)
    assert {name for name, _ in block.named_parameters()} == {
        *("bn1.weight", "bn1.bias", "conv1.weight", "bn2.weight", "bn2.bias", "conv2.weight")
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_network_is_stem_blocks_downsampling_and_head(training, size):
    torch.manual_seed(0)
    net = unsettle_(resnet(width=4, blocks=2, stages=3, in_channels=2, classes=7)).double().train(training)
    x = torch.randn(6, 2, *size, dtype=torch.float64)
    actual = net(x)
    if not training:
        unchanged = {k: v.clone() for k, v in net.state_dict().items()}
    z = F.conv2d(x, net.stem.weight, padding=1)
    for number, stage in enumerate(net.stages):
        if number:
            down = net.transitions[number - 1]
            shortcut = z[:, :, ::2, ::2]
            z = torch.cat([shortcut, torch.zeros_like(shortcut)], 1) + branch(z, down, training, stride=2)
        assert z.shape[1] == 4 * 2**number
        for block in stage.blocks:
            z = z + branch(z, block, training)
    expected = normalise(z, net.head.bn, training).clamp(min=0).mean((2, 3)) @ net.head.linear.weight.T
    torch.testing.assert_close(actual, expected + net.head.linear.bias)
    if not training:
        assert all(torch.equal(v, unchanged[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("height, width", [(8, 8), (7, 5), (2, 2), (1, 1)])
def test_downsampling_shortcut_takes_every_second_pixel_and_appends_zeros(height, width):
    block, z = DownsamplingBlock(3), torch.randn(4, 3, height, width)
    torch.nn.init.zeros_(block.conv2.weight)
    y = block(z)
    assert torch.equal(y[:, :3], z[:, :, ::2, ::2]) and not y[:, 3:].any()
    assert y.shape == (4, 6, (height + 1) // 2, (width + 1) // 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("residual", ["ordinary", "improper", "proper"])
def test_stages_differ_in_what_the_shortcut_carries(residual, training):
    torch.manual_seed(0)
    stage = resnet(width=4, blocks=3, stages=1, residual=residual).stages[0]
    x, z = torch.randn(4, 4, 6, 6), torch.randn(4, 4, 6, 6)
    stage(x)
    stage.train(training)
    twin = copy.deepcopy(stage)  # its vectors and statistics move alike
    shortcut = x if residual == "proper" else z
    assert torch.equal(stage.step(1, z, x), shortcut + twin.branch(1, z))


@pytest.mark.parametrize("residual", ["ordinary", "improper", "proper"])
def test_a_stage_is_its_steps_from_its_input_on(residual):
    torch.manual_seed(0)
    stage = resnet(width=4, blocks=3, stages=1, residual=residual).eval().stages[0]
    x = torch.randn(4, 4, 6, 6)
    first = x + stage.branch(0, x)
    second = (x if residual == "proper" else first) + stage.branch(1, first)
    third = (x if residual == "proper" else second) + stage.branch(2, second)
    assert torch.equal(stage(x), third) and stage.full_path == (0, 1, 2)


@pytest.mark.parametrize("residual", ["ordinary", "improper", "proper"])
def test_recurrent_init_is_equal_and_independent_init_is_not(residual):
    for init, equal in (("recurrent", True), ("independent", False)):
        net = resnet(width=4, blocks=3, init=init, residual=residual, norm_scale=0.1)
        for stage in net.stages:
            first = stage.blocks[0].state_dict()
            for block in stage.blocks[1:]:
                assert all(torch.equal(v, block.state_dict()[k]) == equal for k, v in first.items() if "conv" in k)
                assert all(torch.equal(v, block.state_dict()[k]) for k, v in first.items() if "bn" in k)
        assert len({id(p) for p in net.parameters()}) == len(net.state_dict()) - len(list(net.buffers()))


@pytest.mark.parametrize("norm_scale", [1.0, 0.1])
def test_initial_values(norm_scale):
    torch.manual_seed(0)
    net = resnet(width=32, blocks=4, stages=2, norm_scale=norm_scale)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
            # The mean of n such weights has a standard error of std / sqrt(n).
            assert abs(module.weight.mean().item()) < 5 * (2 / fan_in / module.weight.numel()) ** 0.5
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is None
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == norm_scale).all() and not module.bias.any()
    assert not net.head.linear.bias.any() and net.training


@pytest.mark.parametrize("residual", ["ordinary", "improper", "proper"])
@pytest.mark.parametrize("init", ["recurrent", "independent"])
def test_equal_random_states_give_equal_networks(init, residual):
    def weights(seed, residual):
        torch.manual_seed(seed)
        return list(resnet(width=4, blocks=2, init=init, residual=residual).parameters())

    reference = weights(3, residual)
    assert all(torch.equal(p, q) for p, q in zip(reference, weights(3, residual), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(reference, weights(3, "ordinary"), strict=True)), "only f/c differs"
    assert not torch.equal(reference[0], weights(4, residual)[0])


def test_late_coupling_groups():
    net = resnet(width=4, blocks=8, stages=2)
    assert [len(group) for group in net.coupling_groups(first=5)] == [3, 3]
    assert net.coupling_groups(first=5)[1][0] is net.stages[1].blocks[5]
    for first in (-1, 7):
        with pytest.raises(ic.InputError, match=f"first={first}"):
            net.coupling_groups(first)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"width": 0}, "width=0"),
        ({"width": True}, "width=True is not a whole number"),
        ({"blocks": 0}, "blocks=0"),
        ({"stages": -1}, "stages=-1"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"classes": 0}, "classes=0"),
        ({"init": "zero"}, "init='zero'"),
        ({"residual": "strict"}, "residual='strict'"),
        ({"lipschitz": 0.0}, "lipschitz=0.0"),
        ({"lipschitz": float("inf"), "residual": "proper"}, "lipschitz=inf"),
        ({"norm_scale": -1.0}, "norm_scale=-1.0"),
        ({"norm_scale": float("nan")}, "norm_scale=nan"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(ic.InputError, match=says) as error:
        resnet(**options)
    assert "\n" not in str(error.value)
