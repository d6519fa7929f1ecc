"""The Divergence Index."""

import numpy as np
from numpy.typing import ArrayLike

from iterconv.indices.base import Array, Index, mean_of, ratio


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
    return ratio(mean_of(e[1:] - e[0]), chance - e[0])


DIVERGENCE = Index(
    name="divergence",
    title="Divergence Index",
    short="DI",
    family="extra evaluation",
    compute=divergence_index,
    at=0,
    below="repeating the last block lowers the error",
    above="repeating the last block leads to a higher error than guessing",
)
