"""``BitStrings``: a bit for each position, and a string counts as right if all of them are."""

from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from iterconv.errors import InputError
from iterconv.tasks.base import Task


class BitStrings(Task):
    """Outputs are logits of shape (rows, length), targets bits of the same shape; a row is a whole string."""

    def check_targets(self, targets: Tensor, classes: int) -> None:
        """Raise ``InputError`` unless the targets are rows of 0 and 1, one for each output."""
        if targets.shape[1:] != (classes,) or not bool(((targets == 0) | (targets == 1)).all()):
            raise InputError(f"targets of shape {tuple(targets.shape)} must be rows of {classes} bits, 0 or 1")

    def predict(self, outputs: Float[Tensor, "n length"], targets: Any) -> Shaped[Tensor, "n length"]:
        """1 where a logit is positive, else 0."""
        return (outputs > 0).long()

    def wrong(self, outputs: Float[Tensor, "n length"], targets: Shaped[Tensor, "n length"]) -> Float[Tensor, " n"]:
        """1 if any bit of the string is wrong, else 0."""
        return ((outputs > 0) != (targets > 0)).any(1).float()

    def chance(self, targets: Any, classes: int) -> float:
        """1 - 2^-length."""
        return 1.0 - 2.0**-classes

    def cross_entropy(
        self, outputs: Float[Tensor, "n length"], targets: Shaped[Tensor, "n length"]
    ) -> Float[Tensor, " n"]:
        """The mean binary cross-entropy over the positions in nats."""
        return F.binary_cross_entropy_with_logits(outputs.float(), targets.float(), reduction="none").mean(1)
