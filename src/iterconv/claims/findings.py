"""Findings: an effect, its interval over seeds, n, and what these say about a statement."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Verdict = Literal["supported", "contradicted", "not testable"]
CONFIDENCE = 0.95
TOLERANCE = 0.05
"""The share below which a difference of errors counts as none."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One part of a claim with its verdict."""

    statement: str
    verdict: Verdict
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    reason: str = ""
    """The reason why it is not testable."""

    @property
    def part(self) -> str:
        """The statement without the setting that it is about, which stands before the first colon."""
        return self.statement.partition(": ")[2] or self.statement


def between(statement: str, values: ArrayLike, low: float = -math.inf, high: float = math.inf) -> Finding:
    """Judge whether a mean lies between two bounds, by its Student interval over seeds.

    Choice: supported if the 95% interval lies within the bounds, contradicted if it lies wholly beyond one of them,
    otherwise not testable with so few or so scattered runs.

    Args:
        statement: The statement in words, the bounds included.
        values: A series with the index ``seed``; values of one seed are averaged first, as they share data order and
            initial weights. Or one value for each independent unit. NaN are left out.
        low: The lower bound.
        high: The upper bound.

    Returns:
        The finding, with the mean as effect.
    """
    return from_interval(statement, *_interval(values), low, high)


def alike_or_worse(statement: str, changes: pd.Series, level: float) -> Finding:
    """Judge that something does not improve the error: supported if an improvement beyond the tolerance is excluded.

    Args:
        statement: The statement in words.
        changes: Changes of the error, by seed; an improvement is negative.
        level: The error that is to be improved; a twentieth of it is the tolerance.

    Returns:
        The finding; contradicted if no improvement at all is excluded.
    """
    mean, low, high, n = _interval(changes)
    tolerance = TOLERANCE * level
    if low > -tolerance:
        return from_interval(statement, mean, low, high, n, -tolerance, math.inf)
    return from_interval(statement, mean, low, high, n, 0.0, math.inf)


def _interval(values: ArrayLike) -> tuple[float, float, float, int]:
    """Compute mean, 95% Student interval and number of units; the interval of fewer than two is NaN."""
    if isinstance(values, pd.Series) and values.index.name == "seed":
        # Runs of one seed are not independent, so that they count as one.
        values = values.astype(float).groupby(level=0).mean()
    found: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    n = len(found)
    if n < 2:
        return (float(found.mean()) if n else math.nan), math.nan, math.nan, n
    mean, error = float(found.mean()), float(found.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return mean, mean - half, mean + half, n


def correlation(statement: str, runs: pd.DataFrame, a: str, b: str, low: float = -1.0, high: float = 1.0) -> Finding:
    """Judge whether a rank correlation across the runs of one seed lies between two bounds.

    Args:
        statement: The statement in words.
        runs: The runs; seeds with fewer than four of them, or whose runs do not differ, are left out.
        a: A column.
        b: Another column.
        low: The lower bound.
        high: The upper bound.

    Returns:
        The finding: Spearman's coefficients of the seeds, averaged after Fisher's transformation, with Student's
        interval over seeds.
    """
    found = []
    for _, own in runs.groupby("seed"):
        pairs = own[[a, b]].astype(float).dropna()
        if len(pairs) >= 4 and (pairs.std() > 1e-12).all():
            coefficient = float(stats.spearmanr(pairs[a], pairs[b]).statistic)
            # Fisher's transformation of a perfect correlation would be infinite.
            found.append(math.atanh(float(np.clip(coefficient, -0.99, 0.99))))
    mean, least, most, n = (float(np.tanh(value)) if i < 3 else int(value) for i, value in enumerate(_interval(found)))
    return from_interval(statement, mean, least, most, int(n), low, high, "seeds with four runs that differ")


def from_interval(
    statement: str,
    effect: float,
    low: float,
    high: float,
    n: int,
    least: float,
    most: float,
    units: str = "seeds",
) -> Finding:
    """Compare an interval (low, high) with two bounds (least, most)."""
    if n < 2:
        return Finding(statement=statement, verdict="not testable", n=n, reason=f"an interval needs 2 {units}, not {n}")
    verdict: Verdict = "not testable"
    reason = "the interval does not decide"
    if least < low and high < most:
        verdict, reason = "supported", ""
    elif high <= least or low >= most:
        verdict, reason = "contradicted", ""
    return Finding(statement=statement, verdict=verdict, effect=effect, low=low, high=high, n=n, reason=reason)


def always(statement: str, values: Sequence[bool] | pd.Series) -> Finding:
    """Judge a statement that has to hold in every single run; the effect is the share of runs in which it holds."""
    found = np.asarray(values, dtype=bool)
    if not len(found):
        return not_testable(statement, "no such run")
    share = float(found.mean())
    verdict: Verdict = "supported" if found.all() else "contradicted"
    return Finding(statement=statement, verdict=verdict, effect=share, low=share, high=share, n=len(found))


def not_testable(statement: str, reason: str) -> Finding:
    """Make the finding of a part that these runs say nothing about."""
    return Finding(statement=statement, verdict="not testable", reason=reason)
