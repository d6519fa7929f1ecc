"""The Recurrence Index."""

import numpy as np
from numpy.typing import ArrayLike

from iterconv.indices.base import Array, Index, mean_of, ratio


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
    return 1 - ratio(mean_of(e[:-1] - e[-1]), chance - e[-1])


RECURRENCE = Index(
    name="recurrence",
    title="Recurrence Index",
    short="RI",
    family="drop-out",
    compute=recurrence_index,
    at=-1,
    below="the stage without an earlier block is worse than guessing",
    above="dropping an earlier block costs less than dropping the last one, so that the stage leans on its last block; "
    "it is not more recurrent for that",
)
