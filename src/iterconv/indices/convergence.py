"""The Convergence Index."""

import numpy as np
from numpy.typing import ArrayLike

from iterconv.indices.base import Array, Index, mean_of, ratio


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
    return ratio(chance - mean_of(e[:-1]), chance - e[-1])


CONVERGENCE = Index(
    name="convergence",
    title="Convergence Index",
    short="CI",
    family="early read-out",
    compute=convergence_index,
    at=-1,
    below="early read-outs are worse than guessing",
    above="early read-outs have a lower error than the whole stage",
)
