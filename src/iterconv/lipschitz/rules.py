"""The layers and functions that the bounds cover, and what each does to a bound.

A layer is covered if its very class is in ``RULES``: a subclass may compute something else. Users ``register`` theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import type_before_parametrizations

from iterconv.errors import InputError, check_range
from iterconv.lipschitz.bounds import Expression, Times, Traced
from iterconv.spectral.linear_maps import LinearPart

Rule = Callable[[Any, Traced, tuple[int, ...]], Traced | None]
"""A function of a layer, the tensor that it gets, and the shape of one example of it. It returns what comes out, or
None if the layer is not covered as it is set up."""


def identity(layer: Any, x: Traced, shape: tuple[int, ...]) -> Traced:
    """Rule for layers that do nothing in evaluation: ``x``, whatever the ``layer`` and the ``shape`` are."""
    return x


def affine(layer: nn.Module, x: Traced, shape: tuple[int, ...]) -> Traced:
    """Rule for layers that are affine in their input; the norm is computed from the layer's own forward.

    Args:
        layer: The layer.
        x: The tensor that it gets, as far as it is known.
        shape: The shape of one example of that tensor.

    Returns:
        What is known of the layer's output.
    """
    if x.part is not None and x.part.layer is None:  # a batch norm came before, and becomes a part of the same map
        return replace(x, part=replace(x.part, layer=layer, shape=shape), last=layer)
    return x.then(x.total, LinearPart(layer, shape), layer)


def batch_norm(layer: Any, x: Traced, shape: tuple[int, ...]) -> Traced | None:
    """Rule for batch norms: a diagonal beside the linear layer before or behind it."""
    if layer.running_var is None:
        return None
    if x.part is not None and x.part.layer is not None and x.part.left is None:
        return replace(x, part=replace(x.part, left=layer), last=layer)
    return x.then(x.total, LinearPart(None, shape, right=layer), layer)


@dataclass(frozen=True)
class Slope:
    """Rule for elementwise functions.

    Args:
        largest: The largest magnitude of the slope, or a function that reads it from the layer.

    Raises:
        InputError: If it is negative or not finite.
    """

    largest: float | Callable[[Any], float]

    def __post_init__(self) -> None:
        if not callable(self.largest):
            check_range("largest", self.largest, "[0, inf)", "pass the largest slope of the function")

    def __call__(self, layer: Any, x: Traced, shape: tuple[int, ...]) -> Traced:
        """Apply it."""
        slope = self.largest(layer) if callable(self.largest) else self.largest
        # Slopes are diagonal, and so change places with the diagonal of a batch norm that comes behind.
        return x.then(_times(slope, x.total if x.part is None else x.bound), x.part)


def _times(factor: float, bound: Expression) -> Expression:
    return bound if factor == 1 else Times(bound, factor)


def _batch_norm_act(layer: Any, x: Traced | None, shape: tuple[int, ...]) -> Traced | None:
    """Rule for timm's batch norms with a drop-out and an activation inside."""
    x = batch_norm(layer, x, shape) if x is not None else None
    for inner in (layer.drop, layer.act):
        rule = rule_of(inner)
        x = rule(inner, x, shape) if x is not None and rule is not None else None
    return x


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose output is linear in their parameters, as that of batch norms is."""
_UNWEIGHTED = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.Upsample),
)
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_TIMM_NORM = "timm.layers.norm_act.BatchNormAct2d"

# The slopes of smooth rectifiers exceed 1, since they start below 0 and have to catch up with the identity.
_SILU, _GELU = Slope(1.0999), Slope(1.1291)
ACTIVATIONS: dict[type[nn.Module] | str, Slope] = {
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Tanhshrink, nn.Softshrink), Slope(1.0)),
    **dict.fromkeys((nn.Softsign, nn.Softplus, nn.LogSigmoid), Slope(1.0)),
    nn.Sigmoid: Slope(0.25),
    nn.Hardsigmoid: Slope(1 / 6),
    nn.Hardswish: Slope(1.5),
    nn.SiLU: _SILU,
    nn.GELU: _GELU,
    nn.Mish: Slope(1.0886),
    nn.SELU: Slope(1.7581),
    nn.LeakyReLU: Slope(lambda layer: max(1.0, abs(float(layer.negative_slope)))),
    nn.ELU: Slope(lambda layer: max(1.0, abs(float(layer.alpha)))),
    "transformers.activations.NewGELUActivation": _GELU,
    "transformers.activations.FastGELUActivation": _GELU,
    "transformers.activations.QuickGELUActivation": _SILU,  # x sigmoid(1.702 x): the same slopes
}
"""Elementwise layers, with the largest slope, rounded up."""

RULES: dict[type[nn.Module] | str, Rule] = {
    **dict.fromkeys((*WEIGHTED, *_UNWEIGHTED), affine),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    **dict.fromkeys(_IDENTITIES, identity),
    **ACTIVATIONS,
    _TIMM_NORM: _batch_norm_act,
}
"""The rules of layers by class; classes of other libraries by their qualified name, so that nothing is imported."""

_NAMED = {kind.__name__.lower(): slope for kind, slope in ACTIVATIONS.items() if not isinstance(kind, str)}
FUNCTIONS: dict[Any, Slope] = {
    getattr(owner, name + end): slope
    for owner in (torch, F, Tensor)
    for name, slope in (*_NAMED.items(), ("leaky_relu", _NAMED["leakyrelu"]))
    for end in ("", "_")
    if hasattr(owner, name + end)
}
"""The rules of activations that are called as functions or methods, also in place."""


def register(cls: Any, rule: Any) -> None:
    """Let ``audit`` and ``constrain`` cover a class of layers.

    The layer has to treat the examples of a batch independently. A rule that is wrong makes bounds wrong; the audit
    withdraws a bound only if the measured constant exceeds it.

    Example:
        >>> class Snake(nn.Module):
        ...     def forward(self, x):
        ...         return x + torch.sin(x) ** 2  # has slopes from 0 to 2
        >>> ic.lipschitz.register(Snake, ic.lipschitz.Slope(2.0))

    Args:
        cls: The class, itself; subclasses need rules of their own.
        rule: ``Slope(largest)`` for elementwise functions, ``affine`` for layers that are affine in their input,
            ``identity`` for layers that do nothing in evaluation.

    Raises:
        InputError: If the class is not one of modules, or the rule can't be called.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise InputError(f"cls={cls!r} is not a class of torch modules; pass the layer's class")
    if not callable(rule):
        raise InputError(f"rule={rule!r} is not a rule; pass iterconv.lipschitz.Slope(largest), affine or identity")
    RULES[cls] = rule


def is_layer(module: nn.Module) -> bool:
    """Tell whether a module is traced as one layer: it has a rule, or its class extends one with a rule."""
    return _known(module) is not None or isinstance(module, tuple(kind for kind in RULES if isinstance(kind, type)))


def rule_of(module: nn.Module) -> Rule | None:
    """Return the rule of a layer; None if its class has none, or if something replaces or changes what it computes."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    changed = "forward" in vars(module) or not all(getattr(hook, "divides_branch", False) for hook in hooks)
    return None if changed else _known(module)


def scales_with_its_weights(layer: nn.Module) -> bool:
    """Tell whether dividing a layer's parameters divides its output."""
    # The very class is asked for, as a subclass may use its weights in another way.
    known = type(layer) in (*WEIGHTED, *BATCH_NORMS) or _qualified_name(type(layer)) == _TIMM_NORM
    return known and any(True for _ in layer.parameters())


def _known(module: nn.Module) -> Rule | None:
    kind = type_before_parametrizations(module)
    return RULES.get(kind) or RULES.get(_qualified_name(kind))


def _qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
