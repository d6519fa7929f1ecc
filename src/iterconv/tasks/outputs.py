"""What a foreign model's outputs and representations mean: logits, and rows that belong to rows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from iterconv.errors import InputError
from iterconv.tasks.nested import first_tensor

Output = Callable[[Any, Any], Tensor]
"""From a model's output and its batch to logits (n, classes)."""


def logits(output: Any, inputs: Any) -> Tensor:
    """The tensor among a model's outputs that measuring looks at: itself, ``logits``, or the first one.

    Args:
        output: What the model returns.
        inputs: The batch that it was made of.

    Returns:
        A tensor of shape (n, classes).

    Raises:
        InputError: If there is no tensor.
    """
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    found = first_tensor(output) if found is None else found
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model's output is a {type(output).__name__}; pass output=, a function that makes logits of it"
        )
    return found


def unpadded(inputs: Any, shape: torch.Size) -> Tensor | None:
    """Which positions of a representation are no padding, of shape (n, length); None where the batch tells nothing.

    Args:
        inputs: The batch.
        shape: Of the representation; (n, length, ...) where its positions are the batch's tokens.
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or tuple(shape[:2]) != tuple(mask.shape) or len(shape) < 3:
        return None
    return mask.bool()


def without_padding(z: Tensor, inputs: Any) -> Tensor:
    """A representation with 0 at positions that are padding, where the batch's ``attention_mask`` tells."""
    kept = unpadded(inputs, z.shape)
    return z if kept is None else torch.where(kept.to(z.device).view(*kept.shape, *[1] * (z.ndim - 2)), z, 0)
