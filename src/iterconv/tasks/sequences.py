"""``Sequences``: a class for each position of a sequence, as in tagging."""

from typing import Any

import torch
from torch import Tensor

from iterconv.errors import InputError
from iterconv.tasks.base import logits, mask_of, unpadded
from iterconv.tasks.classes import Classes
from iterconv.tasks.nested import first_tensor

IGNORED = -100
"""The class number of positions that don't count, as in torch's cross-entropy."""


class Sequences(Classes):
    """Outputs of shape (n, length, classes), targets (n, length); rows are the positions that are not padding.

    Positions whose target is -100 don't count. The bootstrap resamples whole sequences.
    """

    def positions(self, inputs: Any, shape: torch.Size) -> Tensor:
        """Tell which positions are rows, as a Boolean tensor of shape (n, length).

        Args:
            inputs: The batch's inputs.
            shape: (n, length, ...).
        """
        kept = unpadded(inputs, shape)
        return torch.ones(shape[:2], dtype=torch.bool) if kept is None else kept

    def outputs(self, made: Any, inputs: Any) -> Tensor:
        """The logits of all positions that are not padding, of shape (rows, classes)."""
        found = logits(made)
        if found.ndim != 3:
            raise InputError(f"a task of sequences needs logits (n, length, classes), not {tuple(found.shape)}")
        return found[self.positions(inputs, found.shape).to(found.device)]

    def targets(self, given: Any, inputs: Any) -> Any:
        """The targets of all positions that are not padding, of shape (rows,)."""
        if given is None:
            return None
        if not isinstance(given, Tensor) or given.ndim != 2:
            raise InputError("a task of sequences needs targets of shape (n, length), a class number a position")
        return given[self.positions(inputs, torch.Size((*given.shape, 1))).to(given.device)]

    def rows(self, z: Any, count: int, inputs: Any) -> Tensor | None:
        """The representation of all positions that are rows; None if its positions are others."""
        if not isinstance(z, Tensor) or z.ndim != 3:
            return None
        kept = self.positions(inputs, z.shape).to(z.device)
        return z[kept] if kept.shape == z.shape[:2] and int(kept.sum()) == count else None

    def units(self, inputs: Any, count: int) -> Tensor | None:
        """The sequence that each row belongs to."""
        mask = mask_of(inputs)
        if mask is not None and int(mask.sum()) == count:
            return mask.nonzero()[:, 0]
        # Without a mask, all sequences are equally long.
        sequences = len(first_tensor(inputs))
        return torch.arange(sequences).repeat_interleave(count // sequences)

    def counted(self, targets: Tensor) -> Tensor | None:
        """All rows whose target is not -100."""
        return targets != IGNORED
