"""The parts of the paper's ResNets: residual blocks, their stage, what stands between stages, the head.

Source: Lippl et al., Sec. A.3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.paths.contract import Stage
from iterconv.spectral.convolutions import power_iteration, random_maps

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
        left = torch.stack([diagonal(block.bn2, block.bn2.running_var) for block in self._typed_blocks()])
        right = torch.stack([diagonal(block.bn1, block.bn1.running_var) for block in self._typed_blocks()])
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


def diagonal(norm: nn.BatchNorm2d, variance: Tensor | None) -> Float[Tensor, " channels"]:
    """The diagonal of diag(BN): scale / sqrt(variance + eps)."""
    assert variance is not None
    return norm.weight * torch.rsqrt(variance + norm.eps)
