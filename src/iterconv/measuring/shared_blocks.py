"""Blocks that share their weights, of which the Recurrence Index says nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def find_shared(stages: Sequence[Any]) -> list[int]:
    """Find the stages of two or more blocks that all have the very same parameters, or equal copies of them.

    Coupling of strength 1 keeps copies equal that started so. Blocks that keep batch statistics of their own are not
    alike: with equal weights and unequal statistics, the Recurrence Index of a network on MNIST was 0.78.

    Args:
        stages: The stages.

    Returns:
        Their numbers, from 0.
    """
    return [
        number
        for number, stage in enumerate(stages)
        if len(stage.blocks) > 1 and all(_alike(stage.blocks[0], block) for block in stage.blocks)
    ]


def _alike(first: nn.Module, other: nn.Module) -> bool:
    own, others = ({**dict(block.named_parameters()), **dict(block.named_buffers())} for block in (first, other))
    learned = any(True for _ in first.parameters())
    return learned and own.keys() == others.keys() and all(_equal(own[name], others[name]) for name in own)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and not a.is_meta and torch.equal(a, b.to(a)))


def describe_shared(numbers: Sequence[int]) -> str:
    """Say in a sentence what weight sharing means for the Recurrence Index; empty if no stage shares its weights."""
    if not numbers:
        return ""
    names = ", ".join(str(number + 1) for number in numbers)
    which = f"stage {names}" if len(numbers) == 1 else f"stages {names}"
    return f"the blocks of {which} share their weights, so a Recurrence Index of 1 there is by construction"
