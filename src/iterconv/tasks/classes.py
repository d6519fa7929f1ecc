"""``Classes``: one of several classes is right."""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from iterconv.errors import InputError
from iterconv.tasks.base import Task

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""The types of class numbers."""


class Classes(Task):
    """Targets are class numbers of shape (rows,); a row is wrong if its highest output is another class."""

    def check_targets(self, targets: Tensor, classes: int) -> None:
        """Raise ``InputError`` unless the targets are class numbers below ``classes``."""
        if targets.ndim != 1 or targets.dtype not in WHOLE:
            raise InputError(
                f"targets of shape {tuple(targets.shape)}, {targets.dtype}, are neither class numbers nor 0/1 rows"
            )
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"label {low if low < 0 else high} is out of range: the model has {classes} outputs, so labels are "
                f"0..{classes - 1}"
            )

    def predict(self, outputs: Float[Tensor, "n classes"], targets: Any) -> Int[Tensor, " n"]:
        """The class with the highest output of each row."""
        return outputs.argmax(1)

    def wrong(self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, " n"]) -> Float[Tensor, " n"]:
        """1 if another class has the highest output, else 0."""
        return (outputs.argmax(1) != targets).float()

    def chance(self, targets: Any, classes: int) -> float:
        """1 - 1 / classes."""
        return 1.0 - 1.0 / classes

    def cross_entropy(self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The negative log-probability of the right class in nats."""
        return F.cross_entropy(outputs.float(), targets, reduction="none")
