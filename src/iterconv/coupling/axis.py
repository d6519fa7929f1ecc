"""``couple_axis``: positions along axes of one parameter, softly tied to each other."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from iterconv.coupling.handle import Coupling, OptimizerWrapper, check_dense, check_whole, local
from iterconv.coupling.kernels import KERNELS
from iterconv.errors import InputError, check_choice, check_number


class AxisCoupling(Coupling):
    """A handle on one parameter; see ``couple_axis``."""

    def __init__(
        self,
        optimizer: object,
        parameter: nn.Parameter,
        axes: tuple[int, ...],
        strength: object,
        kernel: object,
        normalise: bool,
    ) -> None:
        check_whole(parameter)
        # Positions along several axes form one group, such as the rows and columns of a feature map.
        size = math.prod(parameter.shape[axis] for axis in axes)
        if size < 2:
            raise InputError(f"axis {axes} of shape {tuple(parameter.shape)} has {size} position(s); couple two")
        placements = getattr(parameter, "placements", ())
        if any(getattr(placement, "dim", None) in axes for placement in placements):
            raise InputError(
                f"the parameter is sharded along axis {axes}, so that its positions are in different processes; shard "
                "it along another axis"
            )
        self._parameter, self._axes = parameter, axes
        super().__init__(optimizer, [("the axis", parameter)], [size], strength, kernel, normalise)

    def _set(self, strength: Any, kernel: Any, normalise: bool) -> None:
        check_choice("kernel", kernel, KERNELS)
        if len(self._axes) > 1 and KERNELS[kernel].ordered:
            raise InputError(
                f"the {kernel} kernel needs an order of positions; couple one axis with it, not {self._axes}"
            )
        super()._set(strength, kernel, normalise)

    def _mixtures(self) -> Iterator[Callable[[], None]]:
        if self._parameter.grad is None:
            return
        gradient = local(self._parameter.grad)
        check_dense(gradient)
        yield partial(gradient.copy_, self._mix(gradient, self._axes))  # type: ignore[misc]


def couple_axis(
    optimizer: Optimizer | OptimizerWrapper,
    parameter: nn.Parameter,
    axis: int | Sequence[int],
    strength: float,
    kernel: str = "uniform",
    *,
    normalise: bool = True,
) -> Coupling:
    """Couple the gradients of all positions along an axis of one parameter at every step of an optimizer.

    With the positions of a locally connected layer (``iterconv.models.LocallyConnected2d``), 0 is a fully local layer
    and 1, from an equal start, a convolution: the kernels stay bit-identical, and follow the mean of their gradients,
    which is the convolution's gradient divided by the number of positions.

    Args:
        optimizer: The optimizer, or a wrapper of it, as for ``couple``.
        parameter: A parameter that the optimizer holds.
        axis: One axis, or several whose positions are all coupled alike.
        strength: lambda, in [0, 1].
        kernel: ``"uniform"``, or ``"triangular"`` (and other kernels to which order matters) along a single axis.
        normalise: True if the rows of the triangular kernel are to sum to 1.

    Returns:
        A handle such as ``couple`` returns.

    Raises:
        InputError: If an axis does not exist or is given twice, has fewer than two positions or is sharded, or for the
            reasons for which ``couple`` raises it.
    """
    if not isinstance(parameter, nn.Parameter):
        raise InputError(f"{type(parameter).__name__} is not a parameter; pass one, such as layer.weight")
    named = axis if isinstance(axis, (tuple, list)) else (axis,)
    given = [check_number("axis", each, whole=True) for each in named]
    if not given or any(not -parameter.ndim <= each < parameter.ndim for each in given):
        raise InputError(f"axis={axis} does not exist in a parameter of shape {tuple(parameter.shape)}")
    axes = tuple(each % parameter.ndim for each in given)
    if len(set(axes)) < len(axes):
        raise InputError(f"axis={axis} names an axis twice; name each once")
    return AxisCoupling(optimizer, parameter, axes, strength, kernel, normalise)
