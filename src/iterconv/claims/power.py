"""How many seeds a test needs."""

import math
from collections.abc import Sequence

from scipy import special

POWER = 0.8
MOST = 1000
"""The largest number of seeds that is told; a test that needs more is out of reach."""


def seeds_needed(distances: Sequence[float], level: float, power: float = POWER) -> float:
    """Compute how many seeds Student's interval needs to clear bounds, if effect and spread are as they seem.

    Source: the power of Student's t test by the noncentral t distribution, as in Cohen, *Statistical power analysis for
    the behavioral sciences*, 2nd ed., 1988. Choice: the power against two bounds together is at least one minus the
    chances to miss each of them.

    Args:
        distances: The distances of the mean from the bounds that the interval must not reach, in standard deviations
            over seeds; a bound at infinity is no bound.
        level: One minus the confidence of the interval.
        power: The probability of the decision, in (0, 1).

    Returns:
        The least number of seeds from 2; infinite if a distance is not positive or more than `MOST` seeds are needed.
    """
    finite = [distance for distance in distances if math.isfinite(distance)]
    if not finite or min(finite) <= 0 or power_of(finite, level, MOST) < power:
        return math.inf
    low, high = 1, MOST  # ``high`` seeds suffice, ``low`` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(finite, level, middle) >= power else (middle, high)
    return high


def power_of(distances: Sequence[float], level: float, n: int) -> float:
    """Compute the probability that an interval over n seeds clears bounds at these distances, see `seeds_needed`."""
    critical = float(special.stdtrit(n - 1, 1 - level / 2))
    return 1 - sum(_missed(n - 1, distance * math.sqrt(n), critical) for distance in distances)


def _missed(freedom: int, shift: float, critical: float) -> float:
    # The noncentral distribution is computed by a series that fails far out, where nothing is missed any more.
    return 0.0 if shift > critical + 30 else float(special.nctdtr(freedom, shift, critical))
