"""Norms of real convolution operators, for many equally shaped convolutions in one batched power iteration.

The operator of a convolution depends on the feature map: with zero padding it is the matrix that maps a
flattened input map to a flattened output map, and its norm is not that of the reshaped kernel.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.spectral.iteration import power_iteration, random_start

Kernels = Float[Tensor, "blocks out in kernel_height kernel_width"]
Maps = Float[Tensor, "blocks channels height width"]


class Convolutions:
    """The linear maps diag(left) Conv diag(right) of several blocks: stride 1, odd kernels, zero padding.

    Args:
        kernels: One convolution kernel a block.
        left: Factors of the output channels, or None for ones.
        right: Factors of the input channels, or None for ones.
    """

    def __init__(
        self,
        kernels: Kernels,
        left: Float[Tensor, "blocks out"] | None = None,
        right: Float[Tensor, "blocks in"] | None = None,
    ) -> None:
        # A diagonal beside a convolution scales whole channels of its kernel, so it costs nothing in the iteration.
        if left is not None:
            kernels = kernels * left[:, :, None, None, None]
        if right is not None:
            kernels = kernels * right[:, None, :, None, None]
        self.kernels = kernels
        self.padding = (kernels.shape[-2] // 2, kernels.shape[-1] // 2)
        self.grouped = kernels.flatten(0, 1)  # one group a block: a single call serves the whole stage

    def __call__(self, x: Float[Tensor, "blocks in height width"]) -> Float[Tensor, "blocks out height width"]:
        """Apply each block's map to its own input."""
        y = F.conv2d(x.flatten(0, 1)[None], self.grouped, padding=self.padding, groups=len(self.kernels))
        return y.view(len(self.kernels), -1, *x.shape[2:])

    def adjoint(self, y: Float[Tensor, "blocks out height width"]) -> Float[Tensor, "blocks in height width"]:
        """Apply each block's adjoint."""
        x = F.conv_transpose2d(y.flatten(0, 1)[None], self.grouped, padding=self.padding, groups=len(self.kernels))
        return x.view(len(self.kernels), -1, *y.shape[2:])

    def start(self, size: tuple[int, int]) -> Maps:
        """Draw unit maps of a size to start an iteration from."""
        return random_start((len(self.kernels), self.kernels.shape[2], *size), self.kernels)


class ConvolutionNorms(nn.Module):
    """The norms of one convolution in each block of a stage, followed through training.

    Keeps the right singular vectors in a buffer and moves them one step at each training forward, all
    blocks at once. The norm is then ``<u, diag(left) Conv(diag(right) v)>`` with u and v held fixed, so that
    gradients flow to the kernels and factors.

    Source: Lippl et al., Sec. E.1 (after Yoshida & Miyato, 2017).
    """

    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.empty(0))

    def tables(
        self,
        kernels: Kernels,
        size: tuple[int, int],
        left: Float[Tensor, "blocks out"] | None = None,
        right: Float[Tensor, "blocks in"] | None = None,
    ) -> Float[Tensor, "blocks out in"]:
        """Move the vectors one step; return M such that each block's norm is ``left @ M @ right`` for given factors.

        The factors passed here steer the vectors; those multiplied with M may differ, such as batch
        statistics that are only known inside the block.
        """
        convolutions = Convolutions(kernels.detach(), left, right)
        start = self._start(convolutions, size)
        # New vectors point anywhere. Twenty steps bring them close enough for training to begin with.
        u, v, _ = power_iteration(convolutions, start, steps=1 if start is self.vectors else 20)
        with torch.no_grad():
            if start is self.vectors:
                self.vectors.copy_(v)
            else:
                self.vectors = v.clone()
            # `<u, Conv(v)>` is linear in the kernel: each entry counts as often as u and v agree at its shift. So the
            # norm is differentiated without a further convolution.
            correlations = torch.einsum("tohw,tihwkl->toikl", u, _windows(v, kernels))
        return (kernels * correlations).sum((-2, -1))

    def estimate(self, convolutions: Convolutions, size: tuple[int, int]) -> Float[Tensor, " blocks"]:
        """Return the norms as the current vectors have them, one step on; the vectors stay as they are."""
        return power_iteration(convolutions, self._start(convolutions, size))[2]

    def _start(self, convolutions: Convolutions, size: tuple[int, int]) -> Maps:
        blocks, _, channels = convolutions.kernels.shape[:3]
        return self.vectors if self.vectors.shape == (blocks, channels, *size) else convolutions.start(size)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The size of the feature map is known from the first batch only, so a stored buffer sets the shape.
        stored = state_dict.get(prefix + "vectors")
        if stored is not None and stored.shape != self.vectors.shape:
            self.vectors = self.vectors.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _windows(maps: Maps, kernels: Kernels) -> Tensor:
    """Unfold what each position of a size-preserving convolution sees: (blocks, in, height, width, kernel, kernel)."""
    height, width = kernels.shape[-2:]
    padded = F.pad(maps, (width // 2, width // 2, height // 2, height // 2))
    return padded.unfold(2, height, 1).unfold(3, width, 1)
