import pytest
import torch
from torch.nn import functional as F

import iterconv as ic
from iterconv.models import resnet
from iterconv.models.resnet import DownsamplingBlock, ResidualBlock


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


@pytest.mark.parametrize("training", [True, False])
def test_block_is_the_papers_sequence(training):
    torch.manual_seed(0)
    block, z = ResidualBlock(4).train(training), torch.randn(8, 4, 6, 5)

    def norm(x, bn):
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        else:
            mean, var = bn.running_mean, bn.running_var
        scaled = (x - mean[:, None, None]) / torch.sqrt(var + bn.eps)[:, None, None]
        return scaled * bn.weight[:, None, None] + bn.bias[:, None, None]

    hidden = F.conv2d(norm(z, block.bn1).clamp(min=0), block.conv1.weight, padding=1)
    expected = z + F.conv2d(norm(hidden, block.bn2).clamp(min=0), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(z), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height, width", [(8, 8), (7, 5), (2, 2), (1, 1)])
def test_downsampling_shortcut_takes_every_second_pixel_and_appends_zeros(height, width):
    block, z = DownsamplingBlock(3), torch.randn(4, 3, height, width)
    torch.nn.init.zeros_(block.conv2.weight)
    y = block(z)
    assert torch.equal(y[:, :3], z[:, :, ::2, ::2]) and not y[:, 3:].any()
    assert y.shape == (4, 6, (height + 1) // 2, (width + 1) // 2)


def test_stages_differ_in_what_the_shortcut_carries():
    torch.manual_seed(0)
    z, x = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    for residual, shortcut in (("ordinary", z), ("improper", z), ("proper", x)):
        stage = resnet(width=4, blocks=3, stages=1, residual=residual).eval().stages[0]
        torch.testing.assert_close(stage.step(1, z, x), shortcut + stage.branch(1, z))


def test_recurrent_init_is_equal_and_independent_init_is_not():
    for init, equal in (("recurrent", True), ("independent", False)):
        for stage in resnet(width=4, blocks=3, init=init).stages:
            first, last = stage.blocks[0].state_dict(), stage.blocks[2].state_dict()
            assert all(torch.equal(first[k], last[k]) for k in first if "conv" in k) == equal


def test_initial_values():
    torch.manual_seed(0)
    net = resnet(width=32, blocks=4, stages=2, norm_scale=0.1)
    weight = net.stages[1].blocks[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert net.head.linear.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert not net.head.linear.bias.any()
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((n.weight == 0.1).all() and not n.bias.any() for n in norms)


def test_equal_random_states_give_equal_networks():
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(resnet(width=4, blocks=2))
    assert all(torch.equal(p, q) for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


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
        ({"blocks": 0}, "blocks=0"),
        ({"stages": -1}, "stages=-1"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"classes": 0}, "classes=0"),
        ({"init": "zero"}, "init='zero'"),
        ({"residual": "strict"}, "residual='strict'"),
        ({"lipschitz": 0.0}, "lipschitz=0.0"),
        ({"norm_scale": float("nan")}, "norm_scale=nan"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(ic.InputError, match=says) as error:
        resnet(**options)
    assert "\n" not in str(error.value)
