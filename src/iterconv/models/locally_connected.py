"""Locally connected layers: convolutions whose positions have kernels of their own."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.errors import InputError, check_count, check_memory, shown


class LocallyConnected2d(nn.Module):
    """A convolution with a kernel of its own at each output position; softly tied by ``iterconv.couple_axis``.

    ``couple_axis(optimizer, layer.weight, (0, 1), strength)`` leads from a fully local layer (0) to a convolution (1,
    with ``equal_start``); the bias likewise.

    Args:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        kernel_size: The side of the square kernels, odd or even.
        image_size: Height and width of the input in pixels.
        stride: The distance of neighbouring positions in pixels.
        padding: The number of zeros on each side.
        bias: True if each position has a bias.
        equal_start: True if all positions start with the same kernel and bias.

    Raises:
        InputError: If the kernel does not fit into the padded image, or a number is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        image_size: tuple[int, int],
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        equal_start: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
            raise InputError(f"image_size={shown(image_size)} is not a pair; pass (height, width)")
        in_channels, out_channels = check_count("in_channels", in_channels), check_count("out_channels", out_channels)
        image_size = (check_count("image_size[0]", image_size[0]), check_count("image_size[1]", image_size[1]))
        self.kernel_size, self.stride = check_count("kernel_size", kernel_size), check_count("stride", stride)
        self.image_size, self.padding = image_size, check_count("padding", padding, 0)
        height, width = ((side + 2 * padding - kernel_size) // stride + 1 for side in image_size)
        if min(height, width) < 1:
            raise InputError(f"kernel_size={kernel_size} does not fit into {image_size} padded by {padding}")
        check_memory(
            4 * height * width * out_channels * in_channels * kernel_size**2,
            f"kernels of their own for {height} x {width} positions",
            "use fewer channels, a smaller image or a stride",
        )
        bound = 1 / math.sqrt(in_channels * kernel_size**2)  # as torch's convolutions start
        start = (1, 1) if equal_start else (height, width)
        weight = torch.empty(*start, out_channels, in_channels, kernel_size, kernel_size).uniform_(-bound, bound)
        # `expand` alone would let all positions share memory, and an optimizer's step would change them together.
        self.weight = nn.Parameter(weight.expand(height, width, -1, -1, -1, -1).clone())
        """(height, width, out, in, kernel, kernel) of the output's positions."""
        self.bias = None
        if bias:
            start_bias = torch.empty(*start, out_channels).uniform_(-bound, bound)
            self.bias = nn.Parameter(start_bias.expand(height, width, -1).clone())

    def forward(
        self, x: Float[Tensor, "n in_channels in_height in_width"]
    ) -> Float[Tensor, "n out_channels out_height out_width"]:
        """Apply each position's kernel to what is below it."""
        if tuple(x.shape[1:]) != (self.weight.shape[3], *self.image_size):
            expected = f"(n, {self.weight.shape[3]}, {self.image_size[0]}, {self.image_size[1]})"
            raise InputError(f"images of shape {tuple(x.shape)} came to a layer made for {expected}")
        height, width, out = self.weight.shape[:3]
        patches = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)
        y = torch.einsum("nip,poi->nop", patches, self.weight.view(height * width, out, -1))
        y = y.view(-1, out, height, width)
        return y if self.bias is None else y + self.bias.permute(2, 0, 1)

    def extra_repr(self) -> str:
        """Its size."""
        return f"{tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}"
