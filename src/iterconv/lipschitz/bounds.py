"""Bounds on Lipschitz constants as expressions in norms of operators, and what is known of a tensor in a block.

An expression is made once for a branch; its value is taken once and for all, or step by step in training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iterconv.spectral.linear_maps import Operator

Norm = Callable[[Operator], Any]
"""What gives an operator's norm: a number or a tensor."""


class Expression:
    """A bound, in norms of operators."""

    def value(self, norm: Norm) -> Any:
        """Its value for given norms."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Constant(Expression):
    """A number; NaN for parts that are not covered."""

    number: float

    def value(self, norm: Norm) -> Any:
        """The number."""
        return self.number


@dataclass(frozen=True, eq=False)
class Scale:
    """A tensor that multiplies another one elementwise; by its largest entry, as it is when asked."""

    tensor: Tensor
    inverse: bool = False
    derived: bool = False
    """Made of parameters, and so right only as long as they are not trained."""

    def value(self) -> Tensor:
        """The largest magnitude."""
        return (1 / self.tensor if self.inverse else self.tensor).abs().max()


@dataclass(frozen=True, eq=False)
class Times(Expression):
    """A bound times a constant, a scale's largest entry or an operator's norm."""

    factor: float | Scale | Operator
    of: Expression

    def value(self, norm: Norm) -> Any:
        """The product."""
        factor = self.factor
        if isinstance(factor, Operator):
            return self.of.value(norm) * norm(factor)
        return self.of.value(norm) * (factor.value() if isinstance(factor, Scale) else factor)


@dataclass(frozen=True, eq=False)
class Sum(Expression):
    """Of parts that are added, or, in the Euclidean sense, laid side by side."""

    parts: tuple[Expression, ...]
    power: int = 1

    def value(self, norm: Norm) -> Any:
        """The sum, or the root of the sum of squares."""
        values = [part.value(norm) for part in self.parts]
        if self.power == 1:
            return sum(values)
        like = next((value for value in values if isinstance(value, Tensor)), torch.zeros((), dtype=torch.float64))
        # Unlike a root, this norm has a gradient where all parts are 0.
        return torch.linalg.vector_norm(torch.stack([torch.as_tensor(value).to(like) for value in values]))


NOTHING = Constant(0.0)


@dataclass(frozen=True, eq=False)
class State:
    """A tensor ``identity * z + g(z)``; the operator, if any, is the last one of g and may still take on diagonals."""

    identity: float
    bound: Expression
    operator: Operator | None = None

    @property
    def branch(self) -> Expression:
        """The bound of g."""
        return self.bound if self.operator is None else Times(self.operator, self.bound)

    @property
    def total(self) -> Expression:
        """The bound of the tensor as a function of z."""
        if self.identity == 0:
            return self.branch
        own = Constant(abs(self.identity))
        return own if self.branch is NOTHING else Sum((own, self.branch))
