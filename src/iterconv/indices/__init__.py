"""The three indices of iterative convergence, as functions of error curves.

Each takes the errors along one family of perturbations, with any trailing dimensions (bootstrap replicates,
seeds), and compares the area under the perturbed part with the margin between chance and the reference error.

Source: Lippl et al., Sec. 3.3. Choice: the text describes areas under curves in prose; here the area is the
mean over the perturbed positions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64] | np.float64
"""numpy has a type of its own for arrays without dimensions."""


def convergence_index(errors: ArrayLike, chance: float) -> Array:
    """How early the stage's read-outs reach the final error: 0 = at chance until the end, 1 = at once.

    ``CI = (chance - mean_{t<T} e(1..t)) / (chance - e(full))``.

    Args:
        errors: Errors of the early read-outs after t = 1..T blocks, shape (T, ...), in [0, 1].
        chance: The error of guessing, in [0, 1].

    Returns:
        The index, shape (...); infinite or NaN where the margin is zero.
    """
    e = np.asarray(errors, dtype=np.float64)
    return _ratio(chance - _mean(e[:-1]), chance - e[-1])


def recurrence_index(errors: ArrayLike, chance: float) -> Array:
    """How alike dropping an early and dropping the last block are: 1 = alike, 0 = any earlier one gives chance.

    ``RI = 1 - mean_{t<T} [e(without t) - e(without T)] / (chance - e(without T))``; it may exceed 1.

    Args:
        errors: Errors without block t = 1..T, shape (T, ...), in [0, 1].
        chance: The error of guessing, in [0, 1].

    Returns:
        The index, shape (...); infinite or NaN where the margin is zero.
    """
    e = np.asarray(errors, dtype=np.float64)
    return 1 - _ratio(_mean(e[:-1] - e[-1]), chance - e[-1])


def divergence_index(errors: ArrayLike, chance: float) -> Array:
    """How far repeating the last block leads away: 0 = the error stays, 1 = chance at once.

    ``DI = mean_{k=1..K} [e(k extra) - e(full)] / (chance - e(full))``; it may be negative.

    Args:
        errors: Errors after k = 0..K extra evaluations of the last block, shape (K + 1, ...), in [0, 1].
        chance: The error of guessing, in [0, 1].

    Returns:
        The index, shape (...); infinite or NaN where the margin is zero.
    """
    e = np.asarray(errors, dtype=np.float64)
    return _ratio(_mean(e[1:] - e[0]), chance - e[0])


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index, the family of perturbations that it is made of, and where its reference error stands."""

    name: str
    family: str
    compute: Callable[[ArrayLike, float], Array]
    reference: int
    """Position on the curve of the error that is compared with chance."""


INDICES = (
    Index(name="convergence", family="early read-out", compute=convergence_index, reference=-1),
    Index(name="recurrence", family="drop-out", compute=recurrence_index, reference=-1),
    Index(name="divergence", family="extra evaluation", compute=divergence_index, reference=0),
)


def undefined_reason(
    index: Index, curve: NDArray[np.float64], chance: float, least_margin: float, confidence: float
) -> str:
    """Why an index is undefined, or an empty string where it is defined.

    Choice: an index needs a reference error clearly below chance, by ``least_margin`` at least and with a
    bootstrap interval that stays below chance; otherwise it would be a ratio of noise.

    Args:
        index: One of ``INDICES``.
        curve: Errors, shape (positions, 1 + replicates); column 0 is the estimate itself.
        chance: The error of guessing, in [0, 1].
        least_margin: In units of error, in [0, 1].
        confidence: Of the interval, in (0, 1).

    Returns:
        One line.
    """
    if len(curve) < 2:
        return f"the stage has too few blocks for the {index.name} index"
    margins = chance - curve[index.reference]
    if margins[0] < least_margin:
        return f"the reference error {chance - margins[0]:.3f} is within {least_margin:g} of chance {chance:.3f}"
    if len(margins) > 1 and np.quantile(margins[1:], (1 - confidence) / 2) <= 0:
        return f"too few examples to tell the reference error {chance - margins[0]:.3f} from chance {chance:.3f}"
    return ""


def _mean(errors: NDArray[np.float64]) -> Array:
    return errors.mean(0) if len(errors) else np.full(errors.shape[1:], np.nan)


def _ratio(numerator: Array, denominator: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerator / denominator
