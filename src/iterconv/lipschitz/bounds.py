"""Bounds on Lipschitz constants, as expressions in the norms of a branch's linear parts.

An expression is made once for a branch. Its value is taken once and for all, or at each step of training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from iterconv.spectral.linear_maps import LinearPart

Norm = Callable[[LinearPart], Any]
"""A function that gives a linear part's norm, as a number or a tensor."""
Factor = float | Tensor | LinearPart
"""A number, a parameter that multiplies elementwise and counts with its largest magnitude, or a part with its norm."""


# Expressions are objects and not functions, since a copy of a constrained model has to get copies of them, which refer
# to the copied layers.
class Expression:
    """A bound."""

    def value(self, norm: Norm) -> Any:
        """Return the bound's value for given norms."""
        raise NotImplementedError

    def factors(self) -> Iterator[Factor]:
        """Go through the factors in it, those of inner expressions where these stand."""
        for part in vars(self).values():
            yield from part.factors() if isinstance(part, Expression) else (part,)


@dataclass(frozen=True, eq=False)
class Constant(Expression):
    """A number; NaN for parts that are not covered."""

    number: float

    def value(self, norm: Norm) -> Any:
        """Return the number."""
        return self.number


@dataclass(frozen=True, eq=False)
class Times(Expression):
    """A bound times a factor."""

    of: Expression
    factor: Factor

    def value(self, norm: Norm) -> Any:
        """Return the product, with a parameter as it is now."""
        of, factor = self.of.value(norm), self.factor
        if isinstance(factor, LinearPart):
            return of * norm(factor)
        return of * (factor.abs().max() if isinstance(factor, Tensor) else factor)


@dataclass(frozen=True, eq=False)
class Sum(Expression):
    """A bound of two tensors that are added."""

    one: Expression
    other: Expression

    def value(self, norm: Norm) -> Any:
        """Return the sum."""
        return self.one.value(norm) + self.other.value(norm)


NOTHING = Constant(0.0)


@dataclass(frozen=True, eq=False)
class Traced:
    """A tensor in a traced block with input z: ``z + g(z)``, or only ``g(z)``."""

    has_input: bool
    """True if z is added to g(z)."""
    bound: Expression
    """The bound of g, without ``part``."""
    part: LinearPart | None = None
    """The last linear part of g, which may still take on the diagonal of a batch norm."""
    last: nn.Module | None = None
    """The layer that g ends in, if it ends in one that is used nowhere else."""
    uncovered: tuple[str, ...] = ()
    """The names of the parts of g without a bound."""

    @property
    def branch(self) -> Expression:
        """The bound of g."""
        return self.bound if self.part is None else Times(self.bound, self.part)

    @property
    def total(self) -> Expression:
        """The bound of the tensor as a function of z."""
        if not self.has_input:
            return self.branch
        return Constant(1.0) if self.bound is NOTHING else Sum(Constant(1.0), self.branch)

    def then(self, bound: Expression, part: LinearPart | None = None, last: nn.Module | None = None) -> "Traced":
        """Return what a layer makes of this tensor, which has a bound of its own."""
        return Traced(False, bound, part, last, self.uncovered)

    def __add__(self, other: "Traced") -> "Traced":
        """Return the sum of two tensors."""
        first, second = (self, other) if self.has_input else (other, self)
        bare = first.has_input and first.bound is NOTHING
        return Traced(
            first.has_input,
            second.total if bare else Sum(first.branch, second.total),
            last=second.last if bare and not second.has_input else None,
            uncovered=tuple(dict.fromkeys((*first.uncovered, *second.uncovered))),
        )
