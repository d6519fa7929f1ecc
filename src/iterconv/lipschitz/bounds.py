"""Bounds on Lipschitz constants as expressions in norms of operators, and what is known of a tensor in a block.

An expression is made once for a branch; its value is taken once and for all, or step by step in training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iterconv.lipschitz.operators import Operator

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
class Times(Expression):
    """A bound times a constant or an operator's norm."""

    factor: float | Operator
    of: Expression

    def value(self, norm: Norm) -> Any:
        """The product."""
        return self.of.value(norm) * (norm(self.factor) if isinstance(self.factor, Operator) else self.factor)


@dataclass(frozen=True, eq=False)
class Sum(Expression):
    """Of parts that are added, or, in the Euclidean sense, laid side by side."""

    parts: tuple[Expression, ...]
    power: int = 1

    def value(self, norm: Norm) -> Any:
        """The sum, or the root of the sum of squares."""
        return sum(part.value(norm) ** self.power for part in self.parts) ** (1 / self.power)


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
