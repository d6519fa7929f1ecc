"""Corrections of levels: for several findings at once, and for looking again when more seeds are there."""

import math
from collections.abc import Sequence
from dataclasses import replace

from iterconv.claims.findings import ALPHA, Finding

LOOKS = (0.25, 0.5, 1.0)
"""The shares of the largest number of seeds after which a sequential test looks."""


def holm_levels(p: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """Compute the level at which Holm's procedure tests each of several hypotheses.

    Source: Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6, 1979.

    Args:
        p: The p-values.
        alpha: The probability of one wrong rejection or more, in (0, 1).

    Returns:
        The levels, in the order of ``p``. A hypothesis is rejected if and only if its p-value is at most its level;
        those after the first that is not rejected have its level.
    """
    levels, going = [alpha] * len(p), True
    level = alpha
    for rank, which in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        level = alpha / (len(p) - rank) if going else level
        going = going and p[which] <= level
        levels[which] = level
    return levels


def correct(findings: Sequence[Finding], alpha: float = ALPHA) -> list[Finding]:
    """Set the levels of findings so that the chance of a wrong decision among all of them is at most alpha.

    Choice: Holm's correction. A finding's interval has the confidence of the level at which it is tested, so that the
    interval alone tells the verdict.

    Args:
        findings: The findings that form one family.
        alpha: The probability, in (0, 1).

    Returns:
        The findings, in the same order; those without an interval are left as they are.
    """
    tested = [which for which, finding in enumerate(findings) if finding.testable]
    levels = dict(zip(tested, holm_levels([findings[which].p for which in tested], alpha), strict=True))
    return [replace(finding, level=levels.get(which, alpha)) for which, finding in enumerate(findings)]


def looks(most: int, alpha: float = ALPHA) -> list[tuple[int, float]]:
    """Plan a sequential test: the numbers of seeds after which it looks, and the level of each look.

    Source: Lan and DeMets, *Discrete sequential boundaries for clinical trials*, Biometrika 70, 1983: of alpha,
    ``alpha ln(1 + (e - 1) t)`` is spent once a share t of the seeds is there, which resembles Pocock's bounds.
    Choice: this function, as it decides large effects by few seeds, and seeds are dear. What a look spends is its
    level, so that by Bonferroni's inequality the levels add up to alpha whatever the correlation between looks is;
    this also holds for Student's t and few seeds. The numbers of seeds are fixed in advance and do not depend on
    outcomes.

    Args:
        most: The largest number of seeds, from 2.
        alpha: The probability of a wrong decision in any look, in (0, 1).

    Returns:
        Numbers of seeds, ascending, with their levels.
    """
    sizes = sorted({max(2, math.ceil(share * most)) for share in LOOKS})
    spent = [alpha * math.log1p((math.e - 1) * size / most) for size in sizes]
    return [(size, after - before) for size, before, after in zip(sizes, [0.0, *spent], spent, strict=False)]


def first_decisions(family_by_look: Sequence[Sequence[Finding]], levels: Sequence[float]) -> list[Finding]:
    """Judge a family of findings look by look; what is decided once stays decided.

    Args:
        family_by_look: The findings at each look that was taken, the same statements in each.
        levels: The level of each look, see `looks`.

    Returns:
        One finding a statement: that of the look which decided it, or of the last one.
    """
    found: dict[tuple[str, str], Finding] = {}
    for family, level in zip(family_by_look, levels, strict=False):
        for finding in correct(family, level):
            key = (finding.part, finding.statement)
            if key not in found or found[key].verdict == "undecided":
                found[key] = finding
    return list(found.values())
