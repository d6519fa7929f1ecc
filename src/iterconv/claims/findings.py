"""Findings: an effect, its interval over seeds, n, and what these say about a statement."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from iterconv.claims.power import seeds_needed
from iterconv.indices import INDICES
from iterconv.studies.where import Where

Verdict = Literal["supported", "contradicted", "undecided"]
ALPHA = 0.05
"""The probability of a wrong decision that is allowed, for all that a claim says about a setting."""
TOLERANCE = 0.05
"""The share below which a difference of errors counts as none."""
ROUNDING = 1e-7
"""What seeds may differ by rounding alone, also in tables of single precision."""
Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the runs of one setting say about one statement: a mean over seeds, compared with bounds.

    Choice: a finding is supported if its interval lies within the bounds, contradicted if it lies wholly beyond one of
    them, and else undecided. The interval is Student's. Where seeds do not differ at all, as with few test images,
    there is no spread to go by, and the sign test takes its place.
    """

    part: str
    """The letter of the claim's part."""
    statement: str
    """The statement in words, its bounds included."""
    setting: Where | None = None
    """The setting of the runs; None until the finding is judged."""
    centre: float = math.nan
    """The mean, on the scale on which it is compared."""
    error: float = math.nan
    """The standard error of the mean; NaN for fewer than two units."""
    n: int = 0
    """The number of independent units, which are seeds."""
    within: Bounds = (-math.inf, math.inf)
    beyond: Bounds = (-math.inf, math.inf)
    """It is contradicted at or below the first of these, and at or above the second."""
    level: float = ALPHA
    """The level at which it is tested: one minus the confidence of its interval."""
    exact: bool = False
    """True if it has to hold in every run, so that there is nothing to estimate."""
    reason: str = ""
    """The reason why it can't be decided, whatever its interval."""
    units: str = "seeds"
    index: str = ""
    """The index whose value the effect is, if it is one."""
    scale: Callable[[float], float] = float
    """The function from the scale of comparison to that of the effect."""

    @property
    def effect(self) -> float:
        """The mean as it is told."""
        return float(self.scale(self.centre))

    @property
    def interval(self) -> Bounds:
        """The interval of the effect with confidence 1 - level; NaN where there is none."""
        low, high = self._bounds
        return float(self.scale(low)), float(self.scale(high))

    @cached_property
    def _bounds(self) -> Bounds:
        if self.exact or self.n < 2:
            return math.nan, math.nan
        half = float(special.stdtrit(self.n - 1, 1 - self.level / 2)) * self.error
        return self.centre - half, self.centre + half

    @property
    def testable(self) -> bool:
        """True if it has an interval, so that it belongs to the tests that are corrected for one another."""
        return self.n >= 2 and not self.exact and not self.reason

    @cached_property
    def p(self) -> float:
        """The smallest level at which the interval would decide; NaN where there is no interval."""
        if not self.testable:
            return math.nan
        supports = max(self._tail(self.centre - self.within[0]), self._tail(self.within[1] - self.centre))
        contradicts = min(self._tail(self.beyond[0] - self.centre), self._tail(self.centre - self.beyond[1]))
        return min(1.0, 2 * min(supports, contradicts))

    def _tail(self, distance: float) -> float:
        """The probability that chance leads so far, on one side."""
        if self.error == 0:
            return 0.5**self.n if distance > ROUNDING else 1.0
        return float(special.stdtr(self.n - 1, -distance / self.error))

    @cached_property
    def verdict(self) -> Verdict:
        """What the interval says."""
        if self.exact and self.n:
            return "supported" if self.centre == 1 else "contradicted"
        if not self.testable:
            return "undecided"
        if self.error == 0 and self.p > self.level:
            return "undecided"
        low, high = self._bounds
        if self.within[0] < low and high < self.within[1]:
            return "supported"
        return "contradicted" if high <= self.beyond[0] or low >= self.beyond[1] else "undecided"

    @property
    def hopeless(self) -> bool:
        """True if no number of seeds would decide it."""
        return bool(self.reason) and not self.n

    @property
    def why(self) -> str:
        """The reason why it is undecided; an empty string if it is decided."""
        if self.verdict != "undecided" or self.reason:
            return self.reason
        if self.n < 2:
            return f"an interval needs 2 {self.units}, not {self.n}"
        return "the interval does not decide" if self.error else "seeds do not differ at all"

    @cached_property
    def needed(self) -> float:
        """The number of seeds that would decide it with power 0.8 if effect and spread are as they seem.

        Infinite if more than `iterconv.claims.power.MOST` are needed, and NaN if it is decided or nothing is known of
        the spread.
        """
        if self.verdict != "undecided" or not self.testable or self.error == 0:
            return math.nan
        spread = self.error * math.sqrt(self.n)
        inside = [self.centre - self.within[0], self.within[1] - self.centre]
        ways = [[distance / spread for distance in inside]]
        ways += [[(self.beyond[0] - self.centre) / spread], [(self.centre - self.beyond[1]) / spread]]
        return min(seeds_needed(way, self.level) for way in ways)

    @property
    def explanation(self) -> str:
        """What it means that the effect leaves [0, 1], if it is an index and does."""
        return INDICES[self.index].explain(self.effect) if self.index else ""


def between(
    part: str,
    statement: str,
    values: ArrayLike,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    index: str = "",
) -> Finding:
    """Judge whether a mean lies between two bounds, by its Student interval over seeds.

    Args:
        part: The letter of the claim's part.
        statement: The statement in words, the bounds included.
        values: A series with the index ``seed``; values of one seed are averaged first, as they share data order and
            initial weights. Or one value for each independent unit. NaN are left out.
        low: The lower bound.
        high: The upper bound.
        index: The index whose value the mean is, if it is one.

    Returns:
        The finding, with the mean as effect.
    """
    centre, error, n = _mean(values)
    bounds = (low, high)
    return Finding(
        part=part, statement=statement, centre=centre, error=error, n=n, within=bounds, beyond=bounds, index=index
    )


def alike_or_worse(part: str, statement: str, changes: pd.Series, level: float) -> Finding:
    """Judge that something does not improve the error: supported if an improvement beyond the tolerance is excluded.

    Args:
        part: The letter of the claim's part.
        statement: The statement in words.
        changes: Changes of the error, by seed; an improvement is negative.
        level: The error that is to be improved; a twentieth of it is the tolerance.

    Returns:
        The finding; contradicted if no improvement at all is excluded.
    """
    centre, error, n = _mean(changes)
    within = (-TOLERANCE * level, math.inf)
    return Finding(
        part=part, statement=statement, centre=centre, error=error, n=n, within=within, beyond=(0.0, math.inf)
    )


def _mean(values: ArrayLike) -> tuple[float, float, int]:
    """Compute the mean, its standard error and the number of units; the error of fewer than two is NaN."""
    if isinstance(values, pd.Series) and values.index.name == "seed":
        # Runs of one seed are not independent, so that they count as one.
        values = values.astype(float).groupby(level=0).mean()
    found: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    n = len(found)
    if n < 2:
        return (float(found.mean()) if n else math.nan), math.nan, n
    mean, error = float(found.mean()), float(found.std(ddof=1)) / math.sqrt(n)
    return mean, error if error > ROUNDING * max(1.0, abs(mean)) else 0.0, n


def correlation(
    part: str, statement: str, runs: pd.DataFrame, a: str, b: str, low: float = -1.0, high: float = 1.0
) -> Finding:
    """Judge whether a rank correlation across the runs of one seed lies between two bounds.

    Args:
        part: The letter of the claim's part.
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
    centre, error, n = _mean(found)
    bounds = (float(np.arctanh(max(low, -1 + 1e-12))), float(np.arctanh(min(high, 1 - 1e-12))))
    return Finding(
        part=part,
        statement=statement,
        centre=centre,
        error=error,
        n=n,
        within=bounds,
        beyond=bounds,
        units="seeds with four runs that differ",
        scale=math.tanh,
    )


def always(part: str, statement: str, values: Sequence[bool] | pd.Series) -> Finding:
    """Judge a statement that has to hold in every single run; the effect is the share of runs in which it holds."""
    found = np.asarray(values, dtype=bool)
    share = float(found.mean()) if len(found) else math.nan
    return Finding(part=part, statement=statement, centre=share, n=len(found), exact=True, units="runs")


def undecided(part: str, statement: str, reason: str) -> Finding:
    """Make the finding of a part that the runs of a setting can't decide, however many there are."""
    return Finding(part=part, statement=statement, reason=reason)
