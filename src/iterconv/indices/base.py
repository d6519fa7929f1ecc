"""The index: a number that sums up one curve of errors."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iterconv.errors import InputError, check_choice, check_number, describe_error
from iterconv.options import Metric
from iterconv.paths.families import FAMILIES

Array = NDArray[np.float64] | np.float64
"""numpy has a type of its own for arrays without dimensions."""

ROUNDING = 0.005
"""How far an index may leave [0, 1] before that is explained; less is not seen in two decimals."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """A number for each stage, computed from the curve that one family of perturbations gives; call it with a curve.

    ``iterconv.indices.register`` makes an index of yours known to ``iterconv.measure``, tables and figures.
    """

    name: str
    """The name in tables: a column of ``runs``, a value of the column ``index``."""
    title: str
    """The title of its panel in figures."""
    short: str
    """The abbreviation in legends."""
    family: str
    """The family of perturbations that it is computed from, one of ``iterconv.paths.FAMILIES``."""
    compute: Callable[[NDArray[np.float64], float], ArrayLike]
    """A function from the curve, shape (positions, ...), and the error of guessing to the index, shape (...)."""
    metric: str = "error"
    """The metric of the curve: error, disagreement, cross_entropy, distance, or exact_error."""
    at: int | None = None
    """The place on the curve of the reference error, which has to be clearly below the error of guessing; None for an
    index that is not compared with guessing."""
    below: str = ""
    """What a value below 0 means, as the rest of a sentence."""
    above: str = ""
    """What a value above 1 means, as the rest of a sentence."""

    def __post_init__(self) -> None:
        """Refuse an unknown family, an unknown metric, and a place that is not a whole number."""
        check_choice("family", self.family, FAMILIES)
        check_choice("metric", self.metric, Metric)
        if self.at is not None:
            check_number("at", self.at, whole=True)

    def __call__(self, curve: NDArray[np.float64], chance: float) -> NDArray[np.float64]:
        """Compute the index.

        Args:
            curve: The curve, shape (positions, ...).
            chance: The error of guessing, in [0, 1].

        Returns:
            The index, shape (...); NaN for a curve of fewer than two positions.

        Raises:
            InputError: If ``compute`` fails or returns another shape.
        """
        if len(curve) < 2:
            # The only position of such a curve is the reference itself, with which there is nothing to compare.
            return np.full(curve.shape[1:], np.nan)
        what = f"the {self.name} index of a curve of shape {curve.shape}"
        try:
            values = np.asarray(self.compute(curve, chance), dtype=np.float64)
        except Exception as problem:  # whatever a function of a user's raises
            raise InputError(f"{what} raised {describe_error(problem)}") from problem
        if values.shape != curve.shape[1:]:
            raise InputError(
                f"{what} has shape {values.shape}, not {curve.shape[1:]}; let its `compute` keep all axes but the first"
            )
        return values

    def explain(self, value: float) -> str:
        """Say what it means that a value leaves [0, 1].

        Args:
            value: The value of the index.

        Returns:
            A sentence without a full stop; empty for a value that is within [0, 1] to two decimals, or of an index
            that says nothing of others.
        """
        if value > 1 + ROUNDING and self.above:
            return f"{self.short} above 1: {self.above}"
        return f"{self.short} below 0: {self.below}" if value < -ROUNDING and self.below else ""


def explanations(values: Iterable[tuple[Index, float]]) -> list[str]:
    """List what the values of indices that leave [0, 1] mean, each sentence once; see `Index.explain`."""
    told = (index.explain(value) for index, value in values)
    return list(dict.fromkeys(sentence for sentence in told if sentence))


def undefined_reason(
    index: Index, curve: NDArray[np.float64], chance: float, min_margin: float, confidence: float
) -> str:
    """Say why an index is undefined; an empty string if it is defined.

    Choice: an index needs a reference error clearly below chance, by ``min_margin`` at least and with a
    bootstrap interval that stays below chance; otherwise it would be a ratio of noise.

    Args:
        index: The index.
        curve: The curve, shape (positions, 1 + resamples); column 0 is the estimate itself. It has no positions if
            the stage has too few blocks for the family, or no such metric.
        chance: The error of guessing, in [0, 1].
        min_margin: The margin in units of error, in [0, 1].
        confidence: The confidence of the interval, in (0, 1).

    Returns:
        One line.
    """
    if len(curve) < 2:
        return f"the stage has too few blocks{f' or no {index.metric}' * (not len(curve))} for the {index.name} index"
    if index.at is None:
        return ""
    if not -len(curve) <= index.at < len(curve):
        return f"the {index.name} index needs position {index.at} of a curve that has {len(curve)}"
    margins = chance - curve[index.at]
    if margins[0] < min_margin:
        return f"the reference error {chance - margins[0]:.3f} is within {min_margin:g} of chance {chance:.3f}"
    if len(margins) > 1 and np.quantile(margins[1:], (1 - confidence) / 2) <= 0:
        return f"too few examples to tell the reference error {chance - margins[0]:.3f} from chance {chance:.3f}"
    return ""


def mean_of(errors: NDArray[np.float64]) -> Array:
    """The mean over the positions; NaN where there are none."""
    return errors.mean(0) if len(errors) else np.full(errors.shape[1:], np.nan)


def ratio(numerator: Array, denominator: Array) -> Array:
    """A quotient that is infinite or NaN, without a warning, where the denominator is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerator / denominator
