"""``LabelSets``: several labels hold at once, as the digits of a Digitclutter image."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from iterconv.errors import InputError
from iterconv.tasks.base import Task


class LabelSets(Task):
    """Targets are 0/1 rows of shape (rows, classes); the error of a row is the share of its labels that are missed.

    As many labels are predicted as hold. Source: Lippl et al., Sec. A.4.
    """

    def check_targets(self, targets: Tensor, classes: int) -> None:
        """Raise ``InputError`` unless the targets are rows of 0 and 1, each with a label."""
        if targets.shape[1:] != (classes,) or not bool(((targets == 0) | (targets == 1)).all()):
            raise InputError(
                f"targets of shape {tuple(targets.shape)} must be 0/1 rows of {classes} outputs each; a batch of two "
                "is (inputs, targets), so that inputs of two arguments are passed as ((a, b), None)"
            )
        lacking = targets.sum(1).argmin()
        if not bool(targets[lacking].any()):
            raise InputError(f"row {int(lacking)} of the targets has no label; leave out examples without one")

    def predict(self, outputs: Float[Tensor, "n classes"], targets: Any) -> Shaped[Tensor, "n classes"]:
        """The set of as many highest outputs as there are labels, as a 0/1 row."""
        # Sorting twice gives ranks. `topk` can't take a number of its own for each row.
        ranks = outputs.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (ranks < targets.sum(1, keepdim=True)).to(targets.dtype)

    def wrong(self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """The share of the labels that are not predicted."""
        hits = (self.predict(outputs, targets) * targets).sum(1)
        return (1 - hits / targets.sum(1).clamp(min=1)).float()

    def exact_error(
        self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n classes"], chance: float
    ) -> Float[Tensor, " n"]:
        """1 if the predicted set of labels is not exactly the true one, else 0.

        Args:
            outputs: The rows.
            targets: The 0/1 rows of the true labels.
            chance: The value for rows that are not finite.

        Returns:
            Errors of shape (rows,).
        """
        wrong = (self.predict(outputs, targets) != targets).any(1).float()
        return torch.where(torch.isfinite(outputs).all(1), wrong, chance)

    def chance(self, targets: Shaped[Tensor, "n classes"], classes: int) -> float:
        """1 - labels / classes."""
        return 1.0 - targets.float().sum(1).mean().item() / classes

    def cross_entropy(
        self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n classes"]
    ) -> Float[Tensor, " n"]:
        """The mean binary cross-entropy over the outputs in nats."""
        return F.binary_cross_entropy_with_logits(outputs.float(), targets.float(), reduction="none").mean(1)

    def metrics(self, outputs: Tensor, targets: Any, predicted: Any, chance: float) -> dict[str, Callable[[], Tensor]]:
        """All metrics of outputs, with ``exact_error``; a set is practically never guessed."""
        return {
            **super().metrics(outputs, targets, predicted, chance),
            "exact_error": lambda: self.exact_error(outputs, targets, 1.0),
        }
