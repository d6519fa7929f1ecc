"""``couple_axis``: positions along axes of one parameter, softly tied to each other."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from iterconv.coupling.handle import Coupling, check_dense, check_whole, local
from iterconv.coupling.kernels import mixture
from iterconv.errors import InputError, check_number
from iterconv.options import Kernel


class AxisCoupling(Coupling):
    """A handle on one parameter; see ``couple_axis``."""

    def __init__(self, optimizer: Any, parameter: nn.Parameter, axes: tuple[int, ...], *dial: Any) -> None:
        check_whole(parameter)
        size = 1
        for axis in axes:
            size *= parameter.shape[axis]
        if size < 2:
            raise InputError(f"axis {axes} of shape {tuple(parameter.shape)} has {size} position(s); couple two")
        placements = getattr(parameter, "placements", ())
        if any(getattr(placement, "dim", None) in axes for placement in placements):
            raise InputError(
                f"the parameter is sharded along axis {axes}, so that its positions are in different processes; shard "
                "it along another axis"
            )
        self._parameter, self._axes = parameter, axes
        super().__init__(optimizer, [("the axis", parameter)], [size], *dial)

    def _mixtures(self) -> Iterator[Callable[[], None]]:
        if self._parameter.grad is None:
            return
        gradient = local(self._parameter.grad)
        check_dense(gradient)
        mixed = mixture(gradient, self._axes, self._strength, self.kernel, self.matrix(self._sizes[0]))
        yield partial(gradient.copy_, mixed)  # type: ignore[misc]


def couple_axis(
    optimizer: Any,
    parameter: Any,
    axis: Any,
    strength: Any,
    kernel: Kernel = "uniform",
    *,
    normalise: bool = True,
) -> Coupling:
    """Couple the gradients of all positions along an axis of one parameter at every step of an optimizer.

    With the positions of a locally connected layer (``iterconv.models.LocallyConnected2d``), 0 is a fully local layer
    and 1, from an equal start, a convolution: the kernels stay bit-identical, and follow the mean of their gradients,
    which is the convolution's gradient divided by the number of positions.

    Args:
        optimizer: As for ``couple``.
        parameter: Held by the optimizer.
        axis: One axis, or several whose positions are all coupled alike.
        strength: lambda, in [0, 1].
        kernel: ``"uniform"``, or ``"triangular"`` along a single axis.
        normalise: Whether the rows of the triangular kernel sum to 1.

    Returns:
        A handle, as of ``couple``.

    Raises:
        InputError: If an axis is not there or given twice, has fewer than two positions or is sharded, or as for
            ``couple``.
    """
    if not isinstance(parameter, nn.Parameter):
        raise InputError(f"{type(parameter).__name__} is not a parameter; pass one, such as layer.weight")
    for each in axis if isinstance(axis, (tuple, list)) else (axis,):
        check_number("axis", each, whole=True)
    given = tuple(axis) if isinstance(axis, (tuple, list)) else (int(axis),)
    if not given or any(not -parameter.ndim <= each < parameter.ndim for each in given):
        raise InputError(f"axis={axis} is not there in a parameter of shape {tuple(parameter.shape)}")
    axes = tuple(each % parameter.ndim for each in given)
    if len(set(axes)) < len(axes):
        raise InputError(f"axis={axis} names an axis twice; name each once")
    if kernel == "triangular" and len(axes) > 1:
        raise InputError(f"the triangular kernel needs an order of positions; couple one axis with it, not {axis}")
    return AxisCoupling(optimizer, parameter, axes, strength, kernel, normalise)
