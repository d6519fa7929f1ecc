"""Linear maps inside a branch, whatever layer they are of, and their norms.

Only the layer's own forward is used: its offset is taken off, and its adjoint is the transposed Jacobian. So strides,
groups, padding and parametrised weights need no formulas of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from iterconv.spectral.convolutions import cast, converged_norms, random_start


@dataclass(frozen=True, eq=False)
class Operator:
    """diag(left) A diag(right) on one example; the diagonals are those of batch norms in evaluation."""

    layer: Any
    """A module or function that is affine in its input; None for a diagonal alone."""
    shape: tuple[int, ...]
    """Of one example's input."""
    left: tuple[nn.Module, ...] = ()
    right: tuple[nn.Module, ...] = ()


class _Forward(nn.Module):
    """A module's forward without the hooks on it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.forward(x)


class LinearMap:
    """An operator on a batch of one example, in a precision of its own.

    Args:
        operator: What to apply.
        dtype: Of weights and vectors.
    """

    def __init__(self, operator: Operator, dtype: torch.dtype) -> None:
        self._layer = _as_function(operator.layer, dtype)
        self._left = _diagonal(operator.left, dtype)
        self._right = _diagonal(operator.right, dtype)
        zeros = cast(torch.zeros(1, *operator.shape, device=_device(operator)), dtype)
        self._offset = self._layer(zeros)
        self._zeros = zeros

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        y = self._layer(x * _channels(self._right, x)) - self._offset
        return y * _channels(self._left, y)

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply its adjoint."""
        y = (y * _channels(self._left, y)).to(self._offset.dtype)
        return _pulled_back(self._layer, self._zeros, y) * _channels(self._right, self._zeros)

    def norm(self, y: Tensor, x: Tensor) -> Tensor:
        """<y, A x> for unit vectors, with gradients to weights and diagonals."""
        return (y * self(x)).sum()


def _pulled_back(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The transposed Jacobian of a function at x, applied to y; not differentiable itself."""
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


def diagonal_of(norm: Any) -> Tensor:
    """The diagonal of a batch norm in evaluation."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale if norm.weight is None else norm.weight * scale


def converged(operator: Operator) -> Tensor:
    """The norm of an operator, iterated to convergence in double precision.

    Args:
        operator: An operator.

    Returns:
        A number in double precision.
    """
    with torch.no_grad():
        if operator.layer is None:
            return _diagonal(operator.right, torch.float64).abs().max()
        linear = LinearMap(operator, torch.float64)
        return converged_norms(linear, random_start((1, *operator.shape), linear._zeros), tolerance=1e-10)[0]


def estimated(operator: Operator, steps: int = 10) -> Tensor:
    """The norm of an operator after some power iterations from a random start, in its own precision."""
    with torch.no_grad():
        dtype = precision(operator)
        if operator.layer is None:
            return _diagonal(operator.right, dtype).abs().max()
        linear = LinearMap(operator, dtype)
        x = random_start((1, *operator.shape), linear._zeros)
        for _ in range(steps):
            y, x = power_step(linear, x)
        return linear.norm(y, x)


@torch.no_grad()
def power_step(linear: LinearMap, x: Tensor) -> tuple[Tensor, Tensor]:
    """One power iteration: the left vector of a right one, and the next right one.

    A map that is 0, as of layers that start so, leaves the right one where it is.
    """
    y = linear(x)
    y = y / y.norm().clamp(min=torch.finfo(y.dtype).tiny)
    moved = linear.adjoint(y)
    length = moved.norm()
    return y, torch.where(length > 0, moved / length.clamp(min=torch.finfo(x.dtype).tiny), x)


def precision(operator: Operator) -> torch.dtype:
    """The type of an operator's weights; single precision where there are none, or narrower ones."""
    tensors = [p for part in (operator.layer, *operator.left, *operator.right) for p in _floats(part)]
    return torch.float64 if tensors and all(p.dtype == torch.float64 for p in tensors) else torch.float32


def _floats(part: Any) -> list[Tensor]:
    return list(part.parameters()) if isinstance(part, nn.Module) else []


def _device(operator: Operator) -> torch.device:
    parts = (operator.layer, *operator.left, *operator.right)
    return next((p.device for part in parts for p in _floats(part)), torch.device("cpu"))


def _as_function(layer: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    if not isinstance(layer, nn.Module):
        return layer
    bare = _Forward(layer)
    named = [*bare.named_parameters(), *bare.named_buffers()]
    tensors = {name: cast(tensor, dtype) for name, tensor in named if tensor.is_floating_point()}
    return lambda x: functional_call(bare, tensors, (x,))


def _diagonal(norms: tuple[nn.Module, ...], dtype: torch.dtype) -> Tensor:
    product = torch.ones((), dtype=dtype)
    for norm in norms:
        product = product * cast(diagonal_of(norm), dtype)
    return product


def _channels(diagonal: Tensor, x: Tensor) -> Tensor:
    return diagonal.view(1, -1, *[1] * (x.ndim - 2)) if diagonal.ndim else diagonal
