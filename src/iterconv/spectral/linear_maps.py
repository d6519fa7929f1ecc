"""Linear parts of a branch, whatever layers they are, and their norms.

Only the layer's own forward is used: its offset is taken off, and its adjoint is the transposed Jacobian. So strides,
groups, padding and parametrised weights need no formulas of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from iterconv.spectral.iteration import cast, converged_norms, power_iteration, random_start


@dataclass(frozen=True, eq=False)
class LinearPart:
    """diag(left) A diag(right) on one example; the diagonals are those of batch norms in evaluation."""

    layer: nn.Module | None
    """A module that is affine in its input; None for the right diagonal alone."""
    shape: tuple[int, ...]
    """The shape of one example's input."""
    left: nn.Module | None = None
    right: nn.Module | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """The layers that it is made of."""
        return [module for module in (self.layer, self.left, self.right) if module is not None]

    @property
    def precision(self) -> torch.dtype:
        """The type of its weights; single precision where there are none, or narrower ones."""
        kinds = {parameter.dtype for module in self.modules for parameter in module.parameters()}
        return torch.float64 if kinds == {torch.float64} else torch.float32


class LinearMap:
    """A linear part as a map of a batch of one example, in a precision of its own.

    Args:
        part: The part, with a layer.
        dtype: The type of weights and vectors.
    """

    def __init__(self, part: LinearPart, dtype: torch.dtype) -> None:
        assert part.layer is not None
        self._layer = _as_function(part.layer, dtype)
        self._left, self._right = diagonal(part.left, dtype), diagonal(part.right, dtype)
        devices = (parameter.device for module in part.modules for parameter in module.parameters())
        self._zeros = cast(torch.zeros(1, *part.shape, device=next(devices, torch.device("cpu"))), dtype)
        # An affine layer without what it makes of 0 is linear.
        self._offset = self._layer(self._zeros)

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        y = self._layer(x * _channels(self._right, x)) - self._offset
        return y * _channels(self._left, y)

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply its adjoint."""
        y = (y * _channels(self._left, y)).to(self._offset.dtype)
        # The Jacobian of an affine map is the same at every point.
        return _pull_back(self._layer, self._zeros, y) * _channels(self._right, self._zeros)

    def norm(self, y: Tensor, x: Tensor) -> Tensor:
        """Return <y, A x> for unit vectors, with gradients to weights and diagonals."""
        return (y * self(x)).sum()

    def start(self) -> Tensor:
        """Draw a unit vector to start an iteration from."""
        return random_start(tuple(self._zeros.shape), self._zeros)


def diagonal_of(norm: Any) -> Tensor:
    """The diagonal of a batch norm in evaluation: scale / sqrt(running variance + eps)."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale if norm.weight is None else norm.weight * scale


def diagonal(norm: nn.Module | None, dtype: torch.dtype) -> Tensor:
    """The diagonal of a batch norm in a given precision; 1 where there is none."""
    return torch.ones((), dtype=dtype) if norm is None else cast(diagonal_of(norm), dtype)


@torch.no_grad()
def converged(part: LinearPart) -> Tensor:
    """The norm of a linear part, iterated to convergence in double precision."""
    if part.layer is None:
        return diagonal(part.right, torch.float64).abs().max()
    linear = LinearMap(part, torch.float64)
    return converged_norms(linear, linear.start(), tolerance=1e-10)[0]


@torch.no_grad()
def estimated(part: LinearPart, steps: int = 10) -> Tensor:
    """The norm of a linear part after some power iterations from a random start, in its own precision."""
    if part.layer is None:
        return diagonal(part.right, part.precision).abs().max()
    linear = LinearMap(part, part.precision)
    y, x, _ = power_iteration(linear, linear.start(), steps=steps)
    return linear.norm(y, x)


def _pull_back(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Apply the transposed Jacobian of a function at x to y; the result is not differentiable."""
    try:
        _, pull_back = vjp(function, x)  # type: ignore[misc]
        return pull_back(y)[0]
    except RuntimeError as problem:
        if "saved tensor hooks" not in str(problem):
            raise
    # Within torch.utils.checkpoint functions can't be transformed; its hooks must not see what is of no use to it.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x, y)[0]


class _Forward(nn.Module):
    """A module's forward without the hooks on it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.forward(x)


def _as_function(layer: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    # A constraint divides the layer's output by a hook, and must not divide the norm from which it computes its
    # divisor.
    bare = _Forward(layer)
    named = [*bare.named_parameters(), *bare.named_buffers()]
    tensors = {name: cast(tensor, dtype) for name, tensor in named if tensor.is_floating_point()}
    # Weights are given as arguments, so that the module keeps its own precision.
    return lambda x: functional_call(bare, tensors, (x,))


def _channels(diagonal: Tensor, x: Tensor) -> Tensor:
    return diagonal.view(1, -1, *[1] * (x.ndim - 2)) if diagonal.ndim else diagonal
