"""Groups and pairs of runs that are alike in everything but what is compared."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iterconv.studies.where import SETTING

CONDITION = ["width", "residual", "init", "coupling", "norm_scale", "kernel", "first_coupled"]
"""The columns that tell one condition from another within a setting; its runs differ in their seeds."""
_USUAL = {"norm_scale": 1.0, "kernel": "uniform", "first_coupled": 0}
ONE_WIDTH = "one width only"
"""The reason why runs say nothing about a trend with the width."""


def select(runs: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Select runs by the values of columns; a tuple means any of them, ``...`` any value at all.

    Variants of coupling and of the batch norm are left out unless they are asked for.
    """
    if runs.empty:
        return runs
    values = {**{column: value for column, value in _USUAL.items() if column in runs}, **values}
    kept: NDArray[np.bool_] = np.ones(len(runs), dtype=bool)
    for column, value in values.items():
        if value is not Ellipsis:
            kept &= runs[column].isin(value if isinstance(value, tuple) else (value,)).to_numpy()
    return runs[kept]


def differences(a: pd.DataFrame, b: pd.DataFrame, column: str, but: Sequence[str]) -> pd.Series:
    """Subtract runs from runs that are alike in everything except some fields.

    Args:
        a: Runs.
        b: Runs that are subtracted from them.
        column: The column that is compared.
        but: Fields in which the two may differ.

    Returns:
        One difference a pair, indexed by seed; empty where there are no pairs.
    """
    if a.empty or b.empty:
        return by_seed(pd.DataFrame({"seed": [], column: []}), column)
    keys = [key for key in (*SETTING, *CONDITION, "seed") if key not in but]
    # Only runs that have a counterpart of the same seed enter, so that the seeds' own luck cancels out.
    both = a[[*keys, column]].merge(b[[*keys, column]], on=keys, suffixes=("_a", "_b"))
    return by_seed(both.assign(difference=both[f"{column}_a"] - both[f"{column}_b"]), "difference")


def by_seed(runs: pd.DataFrame, column: str) -> pd.Series:
    """Take a column with the seeds as index, so that ``between`` counts seeds."""
    return runs.set_index("seed")[column].astype(float)


def slopes(runs: pd.DataFrame, x: str, y: str, within: Sequence[str]) -> pd.Series:
    """Fit y over x by least squares in each group of runs of one seed that has more than one x.

    Args:
        runs: The runs.
        x: A column.
        y: A column.
        within: Further columns that are alike in each group.

    Returns:
        The slopes, indexed by seed.
    """
    fitted, seeds = [], []
    for key, group in runs.groupby(["seed", *within], dropna=False):
        points = group[[x, y]].astype(float).dropna()
        if points[x].nunique() > 1:
            fitted.append(float(np.polyfit(points[x], points[y], 1)[0]))
            seeds.append(key[0])
    return pd.Series(fitted, index=pd.Index(seeds, name="seed"), dtype=float)


def of_strength(runs: pd.DataFrame, strength: float, residual: str = "ordinary", **more: object) -> pd.DataFrame:
    """Select the runs with recurrent initialisation and a coupling strength."""
    return select(runs, init="recurrent", coupling=strength, residual=residual, **more)


def change(runs: pd.DataFrame, column: str, to: float, since: float = 0.0) -> pd.Series:
    """Compute how a column changes when the coupling strength rises, for nets that are otherwise alike."""
    return differences(of_strength(runs, to), of_strength(runs, since), column, ["coupling"])
