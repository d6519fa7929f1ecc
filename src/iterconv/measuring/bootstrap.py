"""The bootstrap: means over resampled examples or sequences, and their intervals."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterconv.errors import OptionError, check_count, check_range

_WEIGHTS_AT_ONCE = 2**24
"""The number of bootstrap weights that are in memory together (64 MiB)."""


def check_bootstrap(resamples: Any, confidence: Any, seed: Any) -> tuple[int, float, int]:
    """Return the options of a bootstrap as plain numbers; raises ``InputError`` for others."""
    resamples = check_count("resamples", resamples, 0)
    if resamples == 1:
        raise OptionError("resamples", resamples, "makes intervals of one point; use some hundred, or 0 for none")
    confidence = check_range("confidence", confidence, "(0, 1)", "the default is 0.95")
    return resamples, confidence, check_count("seed", seed, 0)


def resampled_means(
    rows: NDArray[np.float64], resamples: int, seed: int, units: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Compute the means of each row over all examples (column 0) and over each resample with replacement.

    All rows see the same resamples. Rows that are not finite get no resamples.

    Args:
        rows: The values, with one column for each example.
        resamples: The number of resamples.
        seed: The seed of the resamples.
        units: The number of each column's unit, from 0, if columns are resampled together, such as the tokens of one
            sequence, which are not independent; by default each column is a unit.

    Returns:
        The means, with one row for each row and one column more than there are resamples.
    """
    rng = np.random.default_rng(seed)
    finite = np.isfinite(rows).all(1)
    means = np.full((len(rows), 1 + resamples), np.nan)
    # The estimate itself is no resample, and does not change with the seed.
    means[:, 0] = rows.mean(1)
    if units is None:
        sums, sizes = rows[finite], np.ones(rows.shape[1], dtype=np.int64)
    else:
        _, units = np.unique(units, return_inverse=True)
        order = np.argsort(units, kind="stable")
        starts = np.flatnonzero(np.diff(units[order], prepend=-1))
        # Sums within units suffice, since the rows of a unit are drawn together.
        sums, sizes = np.add.reduceat(rows[finite][:, order], starts, axis=1), np.bincount(units)
    # Only the resamples are computed in single precision, to save time and memory; column 0 stays in double precision.
    single, count = sums.astype(np.float32), len(sizes)
    # A resample is a row of counts: how often each unit was drawn.
    at_once = max(1, _WEIGHTS_AT_ONCE // count)
    for first in range(1, 1 + resamples, at_once):
        several = min(at_once, 1 + resamples - first)
        drawn = np.array([np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(several)])
        means[finite, first : first + several] = single @ drawn.T.astype(np.float32) / (drawn @ sizes)
    return means


def interval(means: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the bootstrap interval of a row of ``resampled_means``; NaN without resamples."""
    if len(means) == 1 or not np.isfinite(means).all():
        return math.nan, math.nan
    low, high = np.quantile(means[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
