"""Phases: runs of blocks whose updates are alike, found exactly by dynamic programming."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iterconv.errors import InputError, OptionError, check_count

Span = tuple[int, int]
"""The first block of a run, and the block behind its last one, from 0."""
Split = tuple[float, tuple[Span, ...]]
"""The cost of a segmentation, and its runs. Of segmentations of equal cost, the smallest runs in order are taken."""


def find_phases(table: pd.DataFrame, groups: int) -> pd.DataFrame:
    """Cut the stages into the phases whose blocks make the most similar updates.

    Source: *Block-Recurrent Dynamics in Vision Transformers* (arXiv 2512.19941), whose phases are found by
    dynamic programming too. Choice: the cost of a phase is the sum of 1 - cosine over its pairs of blocks, divided by
    its length, which is half the sum of the squared distances of the blocks' unit updates from their mean. The total
    over all stages is minimised exactly.

    Args:
        table: The table that ``iterconv.similarity`` returns; its rows of kind ``"updates"`` are used.
        groups: The number of phases of all stages together; each stage gets one or more.

    Returns:
        One row for each phase: ``stage``, ``phase`` (its number within the stage), ``start`` and ``end`` (its first
        block and the block behind its last one, all from 0), and ``cost``, which is 0 or more, up to rounding.

    Raises:
        InputError: If there are fewer groups than stages or more than blocks, or if the table has no updates.
    """
    updates = table[table["kind"] == "updates"] if "kind" in table else table[:0]
    if updates.empty:
        raise InputError("the table has no rows of kind 'updates'; pass what iterconv.similarity returned")
    maps = [
        rows.pivot(index="block", columns="other", values="value").to_numpy() for _, rows in updates.groupby("stage")
    ]
    check_groups(groups, [len(cosines) for cosines in maps])
    costs = [_costs(cosines) for cosines in maps]
    found: dict[int, tuple[float, tuple[tuple[Span, ...], ...]]] = {0: (0.0, ())}
    for splits in map(_split_stage, costs):
        longer: dict[int, tuple[float, tuple[tuple[Span, ...], ...]]] = {}
        for used, (cost, before) in found.items():
            for more, (own, spans) in splits.items():
                candidate = (cost + own, (*before, spans))
                longer[used + more] = min(longer.get(used + more, candidate), candidate)
        found = longer
    rows = [
        {"stage": stage, "phase": phase, "start": start, "end": end, "cost": costs[stage][start, end]}
        for stage, spans in enumerate(found[groups][1])
        for phase, (start, end) in enumerate(spans)
    ]
    return pd.DataFrame(rows)


def check_groups(groups: object, blocks: list[int]) -> int:
    """Return the number of phases as a plain number.

    Args:
        groups: The number of phases.
        blocks: The number of blocks of each stage.

    Raises:
        InputError: If it is not a whole number from the number of stages to the number of blocks.
    """
    count = check_count("groups", groups)
    if not len(blocks) <= count <= sum(blocks):
        raise OptionError("groups", count, f"is not from {len(blocks)} (one a stage) to {sum(blocks)} (all blocks)")
    return count


def _costs(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the cost of the phase from each start to each end."""
    count = len(cosines)
    costs = np.zeros((count + 1, count + 1))
    for start in range(count):
        for end in range(start + 2, count + 1):
            pairs = np.triu(1 - cosines[start:end, start:end], 1)
            costs[start, end] = pairs.sum() / (end - start)
    return costs


def _split_stage(costs: NDArray[np.float64]) -> dict[int, Split]:
    """Find the best segmentation of one stage into each number of phases."""
    count = len(costs) - 1
    best: dict[tuple[int, int], Split] = {(0, 0): (0.0, ())}
    for end in range(1, count + 1):
        for phases in range(1, end + 1):
            best[phases, end] = min(
                (before[0] + float(costs[start, end]), (*before[1], (start, end)))
                for start in range(phases - 1, end)
                if (before := best.get((phases - 1, start)))
            )
    return {phases: best[phases, count] for phases in range(1, count + 1)}
