"""The paper's ResNets: pre-activation blocks, ordinary, improperly or properly convergent."""

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv._typing import Float
from iterconv.errors import InputError
from iterconv.lipschitz.norms import ConvolutionNorms, power_iteration, random_maps
from iterconv.options import Init, Residual
from iterconv.stages import Stage, StagedModel

Maps = Float[Tensor, "n channels height width"]


class ResidualBlock(nn.Module):
    """A pre-activation block: ``z + Conv2(ReLU(BN2(Conv1(ReLU(BN1(z))))))``.

    Source: Lippl et al., Sec. A.3; 3 x 3 kernels, zero padding, no convolution bias.

    Args:
        width: Channels of the representation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def branch(self, z: Maps) -> Maps:
        """The residual function f, without the shortcut."""
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(z))))))

    def forward(self, z: Maps) -> Maps:
        """The representation after this block."""
        return z + self.branch(z)


class ResidualStage(Stage):
    """Ordinary blocks one after another: ``R_t(z) = z + f_t(z)``."""

    blocks: nn.ModuleList

    def branch(self, index: int, z: Maps) -> Maps:
        """The residual function of block ``index``, as it acts in this stage."""
        return self.blocks[index].branch(z)  # type: ignore[operator]

    def operators(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kernels of Conv1 and Conv2, and diag(BN2), diag(BN1) in evaluation, stacked over the blocks."""
        conv1 = torch.stack([block.conv1.weight for block in self._typed_blocks()])
        conv2 = torch.stack([block.conv2.weight for block in self._typed_blocks()])
        left = torch.stack([_diagonal(block.bn2, block.bn2.running_var) for block in self._typed_blocks()])
        right = torch.stack([_diagonal(block.bn1, block.bn1.running_var) for block in self._typed_blocks()])
        return conv1, conv2, left, right

    @torch.no_grad()
    def estimates(self, size: tuple[int, int]) -> Float[Tensor, " blocks"]:
        """L^(f) of each block for maps of this size after ten power iterations from a random start."""
        conv1, conv2, left, right = self.operators()
        start = random_maps(len(conv1), conv1.shape[2], size, conv1)
        inner = power_iteration(conv1, start, left, right, steps=10)[2]
        return inner * power_iteration(conv2, start, steps=10)[2]

    def constants(self, size: tuple[int, int]) -> Float[Tensor, " blocks"]:
        """What each residual function is divided by in evaluation: 1 here."""
        return torch.ones(len(self), device=self._typed_blocks()[0].conv1.weight.device)

    def _typed_blocks(self) -> list[ResidualBlock]:
        return list(self.blocks)  # type: ignore[arg-type]


class ConstrainedStage(ResidualStage):
    """Blocks whose residual functions are divided by ``c = max(L^(f) / mu, 1)``.

    Improperly convergent: ``R_t(z) = z + f_t(z) / c_t``. Properly convergent: ``R_t(z) = x + f_t(z) / c_t``
    with the stage's input x, a contraction by at least mu.

    Source: Lippl et al., Sec. 4.2, E.1. Departure: the text prints c = max(mu / L^, 1), an erratum; its prose
    fixes the meaning. Choice: in training, diag(BN) takes the batch variance, with its gradient, while the
    singular vectors follow the operator with the running variance, so that one batched power iteration
    serves all blocks before the first of them runs. In evaluation the norms are iterated to convergence
    whenever weights or statistics have changed, and c is a constant.

    Args:
        blocks: The blocks, in order.
        proper: Whether the shortcut comes from the stage's input.
        lipschitz: mu, above 0.
    """

    def __init__(self, blocks: list[ResidualBlock], *, proper: bool, lipschitz: float) -> None:
        super().__init__(blocks)
        self.proper = proper
        self.lipschitz = lipschitz
        self.inner_norms = ConvolutionNorms()
        self.outer_norms = ConvolutionNorms()
        self._tables: tuple[Tensor, Tensor] | None = None
        self._cached: tuple[object, Tensor] | None = None

    def train(self, mode: bool = True) -> "ConstrainedStage":
        """Switch between training and evaluation; constants are computed anew, whatever was done to the weights."""
        self._cached = None
        return super().train(mode)

    def forward(self, x: Maps) -> Maps:
        """The ordinary pass; in training the singular vectors move one step."""
        if self.training:
            self._tables = self._move_vectors((x.shape[-2], x.shape[-1]))
        try:
            return super().forward(x)
        finally:
            self._tables = None

    def step(self, index: int, z: Maps, stage_input: Maps) -> Maps:
        """Apply block ``index``."""
        return (stage_input if self.proper else z) + self.branch(index, z)

    def branch(self, index: int, z: Maps) -> Maps:
        """The constrained residual function f / c of block ``index``."""
        block = self._typed_blocks()[index]
        hidden = block.conv1(F.relu(block.bn1(z)))
        size = (z.shape[-2], z.shape[-1])
        c = self._training_constant(index, z, hidden) if self.training else self.constants(size)[index]
        # Dividing the small kernel is cheaper than dividing the map.
        return F.conv2d(F.relu(block.bn2(hidden)), block.conv2.weight / c, padding=1)

    def constants(self, size: tuple[int, int]) -> Float[Tensor, " blocks"]:
        """C of each block in evaluation, from norms iterated to convergence for maps of this size."""
        # In-place updates raise a tensor's version, replacements change its identity.
        key = (size, [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in self._watched()])
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._converged_constants(size))
        return self._cached[1]

    def _converged_constants(self, size: tuple[int, int]) -> Tensor:
        # They outlive this call, so neither inference mode nor autocast around it may show in them.
        device = self._typed_blocks()[0].conv1.weight.device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            conv1, conv2, left, right = self.operators()
            bounds = self.inner_norms.converged(conv1, size, left, right) * self.outer_norms.converged(conv2, size)
            return (bounds / self.lipschitz).clamp(min=1)

    @torch.no_grad()
    def estimates(self, size: tuple[int, int]) -> Float[Tensor, " blocks"]:
        """L^(f) of each block as training sees it: after one power iteration more than so far."""
        conv1, conv2, left, right = self.operators()
        return self.inner_norms.estimate(conv1, size, left, right) * self.outer_norms.estimate(conv2, size)

    def _watched(self) -> list[Tensor]:
        """The tensors that the constants in evaluation depend on."""
        watched = []
        for block in self._typed_blocks():
            watched += [block.conv1.weight, block.conv2.weight]
            for norm in (block.bn1, block.bn2):
                # Batch norm moves its variance without raising the version; the number of batches shows it.
                watched += [norm.weight, *norm.buffers()]
        return watched

    def _move_vectors(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        conv1, conv2, left, right = self.operators()
        inner = self.inner_norms.tables(conv1, size, left.detach(), right.detach())
        outer = self.outer_norms.tables(conv2, size).sum((1, 2))
        return inner, outer

    def _training_constant(self, index: int, z: Maps, hidden: Maps) -> Tensor:
        block = self._typed_blocks()[index]
        tables = self._tables or self._move_vectors((z.shape[-2], z.shape[-1]))
        right = _diagonal(block.bn1, z.var((0, 2, 3), correction=0))
        left = _diagonal(block.bn2, hidden.var((0, 2, 3), correction=0))
        bound = tables[1][index] * (left @ tables[0][index] @ right)
        return (bound / self.lipschitz).clamp(min=1)


class DownsamplingBlock(nn.Module):
    """Between two stages: half the resolution, twice the channels.

    Source: Lippl et al., Sec. A.3. The shortcut takes every second row and column and appends zeros; the
    block is never perturbed. Choice: it is never coupled or constrained either.

    Args:
        width: Channels before; after it there are twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)

    def forward(self, z: Maps) -> Float[Tensor, "n twice_channels half_height half_width"]:
        """From (n, width, height, width) to twice the channels on half the map, rounded up."""
        branch = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(z))))))
        shortcut = z[:, :, ::2, ::2]
        return branch + F.pad(shortcut, (0, 0, 0, 0, 0, shortcut.shape[1]))


class Head(nn.Module):
    """BN, ReLU, global average pooling, linear."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, z: Maps) -> Float[Tensor, "n classes"]:
        """The logits."""
        return self.linear(F.relu(self.bn(z)).mean((2, 3)))


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
        width: Channels of the first stage, doubled at each further one.
        blocks: Blocks a stage.
        stages: Stages; maps are halved between them.
        in_channels: Channels of the images.
        classes: Outputs.
        init: ``"recurrent"``: all blocks of a stage start equal; ``"independent"``: each on its own.
        residual: ``"ordinary"``, ``"improper"`` (ICR: constrained, shortcut from the block's input) or
            ``"proper"`` (PCR: constrained, shortcut from the stage's input).
        lipschitz: mu of the constraint, above 0; unused by ordinary nets.
        norm_scale: Initial scale of all batch norms within residual blocks and head; the variant is 0.1.

    Returns:
        The network, in training mode.

    Raises:
        InputError: If a size is below 1, an option unknown, or mu or the norm scale not positive and finite.
    """
    sizes = {
        "width": width,
        "blocks": blocks,
        "stages": stages,
        "in_channels": in_channels,
        "classes": classes,
    }
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name}={size} is too small; use 1 or more")
    if init not in get_args(Init):
        raise InputError(f"init={init!r} is unknown; use 'recurrent' or 'independent'")
    if residual not in get_args(Residual):
        raise InputError(f"residual={residual!r} is unknown; use 'ordinary', 'improper' or 'proper'")
    for name, value in {"lipschitz": lipschitz, "norm_scale": norm_scale}.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{name}={value} is not a positive number; the paper has lipschitz 0.95, norm_scale 1")
    widths = [width * 2**stage for stage in range(stages)]
    net = StagedModel(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        [_stage(w, blocks, residual, lipschitz) for w in widths],
        [DownsamplingBlock(w) for w in widths[:-1]],
        Head(widths[-1], classes),
    )
    _initialise_(net, init, norm_scale)
    return net


def _stage(width: int, blocks: int, residual: Residual, lipschitz: float) -> ResidualStage:
    made = [ResidualBlock(width) for _ in range(blocks)]
    if residual == "ordinary":
        return ResidualStage(made)
    return ConstrainedStage(made, proper=residual == "proper", lipschitz=lipschitz)


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


def _diagonal(norm: nn.BatchNorm2d, variance: Tensor | None) -> Float[Tensor, " channels"]:
    assert variance is not None
    return norm.weight * torch.rsqrt(variance + norm.eps)
