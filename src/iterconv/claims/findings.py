"""From columns of a table of runs to findings: an effect, its interval, n, and what it says about a statement."""

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
"""Errors that differ by less than this share are alike."""
_VARIED = ["width", "residual", "init", "coupling", "norm_scale", "kernel", "first_coupled", "seed"]
SETTING = ["data", "samples", "stages", "blocks", "epochs"]
"""Columns that tell one setting from another."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One part of a claim, judged."""

    statement: str
    verdict: Verdict
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    reason: str = ""
    """Why it is not testable."""

    @property
    def part(self) -> str:
        """The statement without the setting that it is about, which stands before the first colon."""
        return self.statement.partition(": ")[2] or self.statement


def between(statement: str, values: ArrayLike, low: float = -math.inf, high: float = math.inf) -> Finding:
    """Judge whether a mean lies between two bounds, by its Student interval over seeds.

    Choice: supported if the 95% interval lies within the bounds, contradicted if it lies wholly beyond one of them,
    otherwise not testable with so few or so scattered runs.

    Args:
        statement: In words, the bounds included.
        values: A series with the index ``seed``, whose values of one seed (which shares data order and initial
            weights) are averaged first; or one value for each independent unit. NaN are left out.
        low: The lower bound.
        high: The upper bound.

    Returns:
        The finding, with the mean as effect.
    """
    return judged(statement, *_interval(values), low, high)


def alike_or_worse(statement: str, changes: pd.Series, level: float) -> Finding:
    """Judge that something does not improve the error: supported if an improvement beyond the tolerance is excluded.

    Args:
        statement: In words.
        changes: Of the error, by seed; an improvement is negative.
        level: The error that is to be improved; a twentieth of it is the tolerance.

    Returns:
        The finding; contradicted if no improvement at all is excluded.
    """
    mean, low, high, n = _interval(changes)
    tolerance = TOLERANCE * level
    if low > -tolerance:
        return judged(statement, mean, low, high, n, -tolerance, math.inf)
    return judged(statement, mean, low, high, n, 0.0, math.inf)


def _interval(values: ArrayLike) -> tuple[float, float, float, int]:
    """Mean, 95% Student interval, number of units; NaN for the interval of fewer than two."""
    if isinstance(values, pd.Series) and values.index.name == "seed":
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
        statement: In words.
        runs: With the columns ``seed``, a and b; seeds with fewer than four runs, or without differences, are left out.
        a: A column.
        b: Another one.
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
            found.append(math.atanh(float(np.clip(coefficient, -0.99, 0.99))))
    mean, least, most, n = (float(np.tanh(value)) if i < 3 else int(value) for i, value in enumerate(_interval(found)))
    return judged(statement, mean, least, most, int(n), low, high, "seeds with four runs that differ")


def judged(
    statement: str,
    effect: float,
    low: float,
    high: float,
    n: int,
    least: float,
    most: float,
    units: str = "seeds",
) -> Finding:
    """The verdict that follows from an interval and two bounds."""
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
    """Judge a statement that has to hold in every single run; the effect is the share in which it does."""
    found = np.asarray(values, dtype=bool)
    if not len(found):
        return missing(statement, "no such run")
    share = float(found.mean())
    verdict: Verdict = "supported" if found.all() else "contradicted"
    return Finding(statement=statement, verdict=verdict, effect=share, low=share, high=share, n=len(found))


def missing(statement: str, reason: str) -> Finding:
    """A part that these runs say nothing about."""
    return Finding(statement=statement, verdict="not testable", reason=reason)


def chosen(runs: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Rows with these values; a tuple means any of them. Variants are left out unless they are asked for."""
    if runs.empty:
        return runs
    values = {"norm_scale": 1.0, "kernel": "uniform", "first_coupled": 0, **values}
    for column, value in values.items():
        if value is not Ellipsis:
            runs = runs[runs[column].isin(value if isinstance(value, tuple) else (value,))]
    return runs


def differences(a: pd.DataFrame, b: pd.DataFrame, column: str, but: Sequence[str]) -> pd.Series:
    """``a - b`` for runs that are alike in everything except some fields.

    Args:
        a: Runs.
        b: Runs.
        column: What to compare.
        but: Fields in which the two may differ.

    Returns:
        One difference a pair, indexed by seed; empty where there are no pairs.
    """
    if a.empty or b.empty:
        return by_seed(pd.DataFrame({"seed": [], column: []}), column)
    keys = [key for key in (*SETTING, *_VARIED) if key not in but]
    both = a[[*keys, column]].merge(b[[*keys, column]], on=keys, suffixes=("_a", "_b"))
    return by_seed(both.assign(difference=both[f"{column}_a"] - both[f"{column}_b"]), "difference")


def by_seed(runs: pd.DataFrame, column: str) -> pd.Series:
    """A column with the seeds as index, so that ``between`` counts seeds."""
    return runs.set_index("seed")[column].astype(float)


def slopes(runs: pd.DataFrame, x: str, y: str, within: Sequence[str]) -> pd.Series:
    """The least-squares slope of y over x in each group of runs of one seed that has more than one x; by seed."""
    found, seeds = [], []
    for key, group in runs.groupby(["seed", *within], dropna=False):
        points = group[[x, y]].astype(float).dropna()
        if points[x].nunique() > 1:
            found.append(float(np.polyfit(points[x], points[y], 1)[0]))
            seeds.append(key[0])
    return pd.Series(found, index=pd.Index(seeds, name="seed"), dtype=float)


def settings_of(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Runs by setting, each with a short name."""
    if runs.empty:
        return []
    return [(_name(dict(zip(SETTING, key, strict=True))), group) for key, group in runs.groupby(SETTING, dropna=False)]


def _name(setting: dict[str, object]) -> str:
    samples = setting["samples"]
    some = f", {int(str(samples).split('.')[0]):,} samples" if pd.notna(samples) else ""
    return f"{setting['data']}{some}, {setting['stages']} x {setting['blocks']} blocks"
