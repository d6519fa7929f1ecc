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
    """Judge whether a mean lies between two bounds, by its Student interval.

    Choice: supported if the 95% interval lies within the bounds, contradicted if it lies wholly beyond one of them,
    otherwise not testable with so few or so scattered runs. Values are taken as independent.

    Args:
        statement: In words, the bounds included.
        values: One for each independent unit; NaN are left out.
        low: The lower bound.
        high: The upper bound.

    Returns:
        The finding, with the mean as effect.
    """
    found: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    n = len(found)
    if n < 2:
        reason = f"{n} value{'s' * (n != 1)}, an interval needs 2"
        return Finding(statement=statement, verdict="not testable", n=n, reason=reason)
    mean, error = float(found.mean()), float(found.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return judged(statement, mean, mean - half, mean + half, n, low, high)


def correlation(
    statement: str, a: ArrayLike, b: ArrayLike, low: float = -1.0, high: float = 1.0, lost: int = 0
) -> Finding:
    """Judge whether a rank correlation lies between two bounds, by Fisher's interval.

    Args:
        statement: In words.
        a: Values; pairs with NaN are left out.
        b: As many.
        low: The lower bound.
        high: The upper bound.
        lost: Degrees of freedom that were spent on removing group means.

    Returns:
        The finding, with Spearman's coefficient as effect.
    """
    pairs = np.stack([np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    n = pairs.shape[1]
    if n - lost < 6 or (pairs.std(1) < 1e-12).any():
        reason = "a correlation needs 6 independent runs that differ"
        return Finding(statement=statement, verdict="not testable", n=n, reason=reason)
    found = float(stats.spearmanr(*pairs).statistic)
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * 1.03 / math.sqrt(n - lost - 3)  # 1.03: of ranks (Fieller)
    centre = math.atanh(float(np.clip(found, -0.9999, 0.9999)))
    return judged(statement, found, math.tanh(centre - half), math.tanh(centre + half), n, low, high)


def judged(statement: str, effect: float, low: float, high: float, n: int, least: float, most: float) -> Finding:
    """The verdict that follows from an interval and two bounds."""
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
        One difference a pair; empty where there are no pairs.
    """
    if a.empty or b.empty:
        return pd.Series(dtype=float)
    keys = [key for key in (*SETTING, *_VARIED) if key not in but]
    both = a[[*keys, column]].merge(b[[*keys, column]], on=keys, suffixes=("_a", "_b"))
    return (both[f"{column}_a"] - both[f"{column}_b"]).astype(float)


def slopes(runs: pd.DataFrame, x: str, y: str, within: Sequence[str]) -> pd.Series:
    """The least-squares slope of y over x in each group of runs that has more than one x and no gap in y."""
    found = []
    for _, group in runs.groupby(list(within), dropna=False):
        points = group[[x, y]].astype(float).dropna()
        if points[x].nunique() > 1:
            found.append(float(np.polyfit(points[x], points[y], 1)[0]))
    return pd.Series(found, dtype=float)


def settings_of(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Runs by setting, each with a short name."""
    if runs.empty:
        return []
    return [(_name(dict(zip(SETTING, key, strict=True))), group) for key, group in runs.groupby(SETTING, dropna=False)]


def _name(setting: dict[str, object]) -> str:
    samples = setting["samples"]
    some = f", {int(str(samples).split('.')[0]):,} samples" if pd.notna(samples) else ""
    return f"{setting['data']}{some}, {setting['stages']} x {setting['blocks']} blocks"
