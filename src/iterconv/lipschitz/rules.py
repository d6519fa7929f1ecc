"""Which layers and functions the bounds cover, by name, and with what constants.

Names rather than classes, so that the activations of timm and transformers are known without importing them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

AFFINE_LAYERS = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.modules.padding._CircularPadNd,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Fold,
    nn.Unfold,
)
"""Affine in their input; their operators' norms are computed."""

AFFINE_FUNCTIONS = {
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "interpolate",
    "mean",
    "sum",
}

_SILU, _GELU = 1.0999, 1.1291
ACTIVATIONS = {
    "relu": 1.0,
    "relu6": 1.0,
    "hardtanh": 1.0,
    "tanh": 1.0,
    "tanhshrink": 1.0,
    "softshrink": 1.0,
    "softsign": 1.0,
    "softplus": 1.0,
    "logsigmoid": 1.0,
    "sigmoid": 0.25,
    "hardsigmoid": 1 / 6,
    "hardswish": 1.5,
    "silu": _SILU,
    "swish": _SILU,
    "siluactivation": _SILU,
    "quickgelu": _SILU,  # x sigmoid(1.702 x): the same slopes
    "quickgeluactivation": _SILU,
    "gelu": _GELU,
    "gelutanh": _GELU,
    "geluactivation": _GELU,
    "newgeluactivation": _GELU,
    "fastgeluactivation": _GELU,
    "gelunew": _GELU,
    "mish": 1.0886,
    "selu": 1.7581,
    "abs": 1.0,
}
"""Elementwise, with the largest slope, rounded up."""

IDENTITIES = {
    "identity",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alphadropout",
    "featurealphadropout",
    "droppath",
    "stochasticdepth",
    "dropblock2d",
    "contiguous",
    "clone",
    "stochastic_depth",
    "drop_path",
}
"""Nothing happens here in evaluation."""

REARRANGEMENTS = {
    "flatten",
    "unflatten",
    "reshape",
    "view",
    "permute",
    "transpose",
    "t",
    "squeeze",
    "unsqueeze",
    "roll",
    "flip",
    "chunk",
    "split",
    "getitem",
    "narrow",
    "moveaxis",
    "movedim",
    "rearrange",
}
"""Entries change place or go; no norm grows."""


_CLAMPS = {"clamp", "clip", "clampmin", "clampmax"}


def is_activation(name: str) -> bool:
    """Whether ``slope`` knows a class of this name, in lower case."""
    return name in ACTIVATIONS or name in ("leakyrelu", "elu", "celu", "prelu")


def slope(name: str, part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """The Lipschitz constant of an elementwise activation; None if it is not known as one.

    Args:
        name: Of a class or function, in lower case.
        part: The module, or None for a function.
        args: Of a function, without the input.
        kwargs: Of a function.
    """
    name = name.replace("_", "")
    if name == "leakyrelu":
        given = part.negative_slope if part is not None else (*args, kwargs.get("negative_slope", 0.01))[0]
        return max(1.0, abs(float(given)))
    if name == "elu":
        given = part.alpha if part is not None else (*args, kwargs.get("alpha", 1.0))[0]
        return max(1.0, abs(float(given)))
    if name == "celu":
        given = part.alpha if part is not None else (*args, kwargs.get("alpha", 1.0))[0]
        return 1.0 if float(given) > 0 else None
    if name == "prelu" and part is not None:
        return max(1.0, float(part.weight.detach().abs().max()))
    if name in _CLAMPS and all(isinstance(limit, int | float | None) for limit in (*args, *kwargs.values())):
        return 1.0
    return ACTIVATIONS.get(name)


def window_overlap(pool: Any) -> float:
    """The Lipschitz constant of a max pooling: the square root of how many windows an entry can be in."""
    dimensions = int(type(pool).__name__.removeprefix("MaxPool")[0])
    sizes, strides = (
        value if isinstance(value, tuple) else (value,) * dimensions for value in (pool.kernel_size, pool.stride)
    )
    product = 1.0
    for size, stride in zip(sizes, strides, strict=True):
        product *= -(-size // stride)
    return product**0.5


@torch.no_grad()
def behaves(layer: nn.Module, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a layer with a forward of its own does what its class or name says; torch's own layers are believed.

    Args:
        layer: In evaluation mode.
        name: Of its class, in lower case.
        shape: Of one example's input.
    """
    if type(layer).forward.__module__.startswith("torch."):
        return True
    forward = layer.forward  # without hooks, such as those of our own constraint
    tensors = [*layer.parameters(), *layer.buffers()]
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    x, y = (3 * torch.randn(2, *shape, generator=generator).to(like) for _ in range(2))
    try:
        if isinstance(layer, _BatchNorm):
            expected = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
            activation = getattr(layer, "act", nn.Identity())
            return _close(forward(x), activation(expected))
        if isinstance(layer, AFFINE_LAYERS):
            return _close(forward(x) + forward(y), forward(x + y) + forward(torch.zeros_like(x)))
        if name in IDENTITIES:
            return torch.equal(forward(x), x)
        largest = slope(name, layer, (), {})
        return largest is not None and bool(
            ((forward(x + 0.01) - forward(x)).abs() <= 0.01 * largest * 1.02 + 1e-6).all()
        )
    except (RuntimeError, TypeError, ValueError):
        return False


def _close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
