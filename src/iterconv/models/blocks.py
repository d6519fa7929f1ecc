"""The parts of the paper's ResNets: residual blocks, their stage, what stands between stages, the head.

Source: Lippl et al., Sec. A.3.
"""

from typing import no_type_check

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.paths.contract import Stage

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

    @no_type_check  # the audit traces a block, and what it passes in is not a tensor
    def branch(self, z: Maps) -> Maps:
        """The residual function f(z), without the shortcut."""
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(z))))))

    @no_type_check
    def forward(self, z: Maps) -> Maps:
        """The representation after this block."""
        return z + self.branch(z)


class ResidualStage(Stage):
    """Ordinary blocks one after another: ``R_t(z) = z + f_t(z)``."""

    blocks: nn.ModuleList

    def branch(self, index: int, z: Maps) -> Maps:
        """The residual function f(z) of block ``index``, as it acts in this stage."""
        return self.blocks[index].branch(z)  # type: ignore[operator]


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
