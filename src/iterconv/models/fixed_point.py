"""Fixed points of contractions: iteration to a tolerance, with Anderson acceleration, and the implicit gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from iterconv.errors import check_count, check_range

_RIDGE = 1e-12
"""The ridge of the least squares of Anderson acceleration, relative to the mean square of the differences."""


@dataclass(frozen=True, kw_only=True)
class Iterating:
    """How a fixed point is found."""

    tolerance: float = 1e-4
    """The length of a step relative to the state's norm, ||g(z) - z|| / ||g(z)||, at which an example is done; above 0.
    """
    most: int = 500
    """The largest number of applications, at least 1."""
    window: int = 5
    """The number of earlier steps that Anderson acceleration combines; 0 for plain iteration."""

    def __post_init__(self) -> None:
        check_range("tolerance", self.tolerance, "(0, 1)", "the default is 0.0001")
        check_count("most", self.most)
        check_count("window", self.window, 0)


@dataclass(frozen=True, eq=False)
class Solution:
    """A fixed point and what it took to get there."""

    z: Float[Tensor, "n ..."]
    """The last application's result."""
    applications: Int[Tensor, " n"]
    """The number of applications until each example was done; ``most`` if it was not."""
    residual: Float[Tensor, " n"]
    """The relative length of each example's last step."""


@torch.no_grad()
def iterate(apply: Callable[[Tensor], Tensor], start: Tensor, how: Iterating) -> Solution:
    """Apply a function again and again until every example is done, with Anderson acceleration.

    Each example is accelerated on its own and stays where it is once it is done, so that its result does not depend on
    the others. With g the function and f = g(z) - z, the next state is g(z) minus the combination of the latest
    differences of g that makes the same combination of differences of f closest to f.

    Source: Walker & Ni 2011, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49(4), Eq. 2.3 to
    2.6, without damping. Choice: an example whose step has just grown takes a plain step, since a contraction then
    comes closer for certain.

    Args:
        apply: The function g, from states to states, one example a row and none dependent on another.
        start: The state to start from.
        how: The tolerance, the largest number of applications, and the window.

    Returns:
        The solution.
    """
    z, count = start, len(start)
    applications = torch.full((count,), how.most, device=z.device)
    residual = torch.full((count,), torch.inf, device=z.device, dtype=z.dtype)
    done, result = torch.zeros(count, dtype=torch.bool, device=z.device), z
    history = _History(how.window)
    for number in range(1, how.most + 1):
        g = apply(z)
        length = _relative(g, z)
        grows, residual = length > residual, torch.where(done, residual, length)
        result = torch.where(_as_rows(done, g), result, g)
        newly = ~done & (length <= how.tolerance)
        applications = torch.where(newly, number, applications)
        done = done | newly
        if bool(done.all()):
            break
        z = torch.where(_as_rows(done, g), z, history.accelerate(g, g - z, grows))
    return Solution(result, applications, residual)


class _History:
    """The latest differences of successive results and steps."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._last: tuple[Tensor, Tensor] | None = None
        self._results: list[Tensor] = []
        self._steps: list[Tensor] = []

    def accelerate(self, g: Tensor, f: Tensor, plain: Tensor) -> Tensor:
        """Return the next state from the latest result and step; examples that are ``plain`` get the result itself."""
        if not self._window:
            return g
        if self._last is not None:
            self._results = [*self._results, (g - self._last[0]).flatten(1)][-self._window :]
            self._steps = [*self._steps, (f - self._last[1]).flatten(1)][-self._window :]
        self._last = (g, f)
        if not self._steps:
            return g
        differences, results = torch.stack(self._steps, 1), torch.stack(self._results, 1)
        # A few unknowns: the normal equations in double precision do.
        wide = differences.double()
        square = wide @ wide.mT
        scale = square.diagonal(dim1=1, dim2=2).mean(1)
        scale = torch.where(scale > 0, scale, 1)  # the differences of examples that are done are 0
        ridge = (_RIDGE * scale)[:, None, None] * torch.eye(len(self._steps), dtype=torch.float64, device=g.device)
        weights, _ = torch.linalg.solve_ex(square + ridge, wide @ f.flatten(1).double()[:, :, None])
        moved = (results.mT @ weights.to(g.dtype))[:, :, 0].view_as(g)
        return torch.where(_as_rows(plain, g), g, g - moved)


def _relative(g: Tensor, z: Tensor) -> Tensor:
    length, size = (g - z).flatten(1).norm(dim=1), g.flatten(1).norm(dim=1)
    return torch.where(length == 0, 0, length / size)


def _as_rows(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (like.ndim - 1))


def solve(
    apply: Callable[..., Tensor],
    start: Tensor,
    tensors: tuple[Tensor, ...],
    how: Iterating,
    report: Callable[[Solution], None] = lambda found: None,
) -> Tensor:
    """Find z = apply(z, *tensors), with the implicit gradient for ``tensors``.

    The gradient is that of the fixed point itself: with v the gradient at z, w = v + (dg/dz)^T w is solved as the fixed
    point was, and w is propagated through one application. So memory does not depend on the number of applications.

    Source: Bai et al. 2019, Deep Equilibrium Models, Theorem 1 (arXiv 1909.01377).

    Args:
        apply: The function of a state and the tensors, a contraction in the state, each example for itself. It may
            depend on other tensors, which get no gradient.
        start: The state to start from, which gets no gradient.
        tensors: The tensors that gradients flow to.
        how: The tolerance, the largest number of applications, and the window; for both passes.
        report: A function that gets the solution, and in the backward pass that of the gradient's equation.

    Returns:
        The fixed point.
    """
    found: Tensor = _Solve.apply(apply, start.detach(), how, report, *tensors)
    return found


class _Solve(torch.autograd.Function):
    """A fixed point whose backward pass solves the adjoint equation at it."""

    @staticmethod
    def forward(ctx: Any, apply: Any, start: Tensor, how: Iterating, report: Any, *tensors: Tensor) -> Tensor:
        found = iterate(lambda z: apply(z, *tensors), start, how)
        report(found)
        ctx.function, ctx.how, ctx.report = apply, how, report
        ctx.save_for_backward(found.z, *tensors)
        return found.z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, *tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            own = [tensor.detach().requires_grad_(wanted) for tensor, wanted in zip(tensors, needed, strict=True)]
            once = ctx.function(z, *own)

        def adjoint(w: Tensor) -> Tensor:
            return gradient + torch.autograd.grad(once, z, w, retain_graph=True)[0]

        found = iterate(adjoint, gradient, ctx.how)
        ctx.report(found)
        wanted = [tensor for tensor in own if tensor.requires_grad]
        gradients = iter(torch.autograd.grad(once, wanted, found.z))
        return (None, None, None, None, *(next(gradients) if tensor.requires_grad else None for tensor in own))
