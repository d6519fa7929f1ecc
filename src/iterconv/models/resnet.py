"""``resnet``: the paper's networks of any width, depth and number of stages, in its three kinds."""

from torch import nn

from iterconv.errors import check_choice, check_count, check_memory, check_range
from iterconv.models.blocks import DownsamplingBlock, Head, ResidualBlock, ResidualStage
from iterconv.models.constrained import ConstrainedStage
from iterconv.options import Init, Residual
from iterconv.paths.contract import StagedModel


def resnet(
    width: int = 16,
    blocks: int = 16,
    stages: int = 3,
    in_channels: int = 3,
    classes: int = 10,
    *,
    init: Init = "independent",
    residual: Residual = "ordinary",
    lipschitz: float = 0.95,
    norm_scale: float = 1.0,
) -> StagedModel:
    """Make one of the paper's ResNets, initialised from torch's global random state.

    Source: Lippl et al., Sec. A.3, A.4, 4.2, D.1.

    Args:
        width: The number of channels of the first stage, doubled at each further one.
        blocks: The number of blocks a stage.
        stages: The number of stages; maps are halved between them.
        in_channels: The number of channels of the images.
        classes: The number of outputs.
        init: ``"recurrent"``: all blocks of a stage start equal; ``"independent"``: each on its own.
        residual: ``"ordinary"``, ``"improper"`` (ICR: constrained, shortcut from the block's input) or
            ``"proper"`` (PCR: constrained, shortcut from the stage's input).
        lipschitz: The constant mu of the constraint, above 0; unused by ordinary nets.
        norm_scale: The initial scale of all batch norms within residual blocks and head; the variant is 0.1.

    Returns:
        The network, in training mode.

    Raises:
        InputError: If a size is below 1, an option unknown, or mu or the norm scale not positive and finite.
    """
    width, blocks, stages = (
        check_count(name, size) for name, size in (("width", width), ("blocks", blocks), ("stages", stages))
    )
    in_channels, classes = check_count("in_channels", in_channels), check_count("classes", classes)
    check_choice("init", init, Init)
    check_choice("residual", residual, Residual)
    lipschitz = check_range("lipschitz", lipschitz, "(0, inf)", "the paper has 0.95")
    norm_scale = check_range("norm_scale", norm_scale, "(0, inf)", "the paper has 1, and 0.1 in a variant")
    _check_size(width, blocks, stages, in_channels, classes)
    widths = [width * 2**stage for stage in range(stages)]
    net = StagedModel(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        [_stage(w, blocks, residual, lipschitz) for w in widths],
        [DownsamplingBlock(w) for w in widths[:-1]],
        Head(widths[-1], classes),
    )
    _initialise_(net, init, norm_scale)
    return net


def _check_size(width: int, blocks: int, stages: int, in_channels: int, classes: int) -> None:
    """Refuse what could not be held, by the weights of its convolutions and of its outer layers."""
    last = width * 2 ** min(stages - 1, 64)  # more halvings than an image can have
    weights = blocks * 18 * last**2 * 4 / 3 + 9 * in_channels * width + classes * last
    objects = 30_000 * blocks * stages  # modules and their tensors, however small
    check_memory(
        4 * weights + objects,
        f"a network with width={width}, blocks={blocks}, stages={stages}, classes={classes}",
        "use smaller numbers",
    )


def _stage(width: int, blocks: int, residual: Residual, lipschitz: float) -> ResidualStage:
    fresh = [ResidualBlock(width) for _ in range(blocks)]
    if residual == "ordinary":
        return ResidualStage(fresh)
    return ConstrainedStage(fresh, proper=residual == "proper", lipschitz=lipschitz)


def _initialise_(net: StagedModel, init: Init, norm_scale: float) -> None:
    """Kaiming normal weights, zero biases. Choice: fan-in mode with ReLU's gain, also for stem and linear."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, norm_scale)
    if init == "recurrent":
        for group in (list(stage.blocks) for stage in net.stages):
            for block in group[1:]:
                block.load_state_dict(group[0].state_dict())
