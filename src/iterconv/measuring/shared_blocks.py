"""Blocks that share their weights, of which the Recurrence Index says nothing."""

from collections.abc import Sequence
from typing import Any


def find_shared(stages: Sequence[Any]) -> list[int]:
    """Find the stages of two or more blocks that all have the very same parameters.

    Args:
        stages: The stages.

    Returns:
        Their numbers, from 0.
    """
    found = []
    for number, stage in enumerate(stages):
        own = [{id(parameter) for parameter in block.parameters()} for block in stage.blocks]
        if len(own) > 1 and own[0] and all(each == own[0] for each in own):
            found.append(number)
    return found


def describe_shared(numbers: Sequence[int]) -> str:
    """Say in a sentence what weight sharing means for the Recurrence Index; empty if no stage shares its weights.

    Choice: blocks that share their weights but keep statistics of their own are told the same way, since nothing that
    was learned tells them apart.
    """
    if not numbers:
        return ""
    names = ", ".join(str(number + 1) for number in numbers)
    which = f"stage {names}" if len(numbers) == 1 else f"stages {names}"
    return f"the blocks of {which} share their weights, so a Recurrence Index of 1 there is by construction"
