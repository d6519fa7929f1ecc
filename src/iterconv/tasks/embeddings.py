"""``Embeddings``: an encoder without labels, whose perturbed embeddings should stay nearest to their own."""

from typing import Any

import torch
from torch import Tensor, nn

from iterconv.errors import InputError
from iterconv.tasks.classes import Classes

SHARPNESS = 20.0
"""The factor of the cosines that makes logits of them, as in contrastive training; errors do not depend on it."""


class Embeddings(Classes):
    """Outputs are similarities to the unperturbed embeddings of all examples; the right one is the example's own.

    Args:
        intact: The unperturbed embeddings of all examples, of shape (examples, width), normalised.
    """

    def __init__(self, intact: Tensor) -> None:
        self.intact = intact

    def outputs(self, made: Any, inputs: Any) -> Tensor:
        """The scaled cosines between the embeddings of a batch and those of all examples."""
        return SHARPNESS * embedding(made, inputs) @ self.intact.T


def embedding(made: Any, inputs: Any) -> Tensor:
    """The normalised mean over an encoder's tokens, padding left out.

    Args:
        made: The output of a transformers model, with ``last_hidden_state`` of shape (n, tokens, width).
        inputs: The batch, with ``attention_mask`` where there is padding.

    Returns:
        A tensor of shape (n, width).

    Raises:
        InputError: If the output has no such states.
    """
    states = getattr(made, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.ndim != 3:
        raise InputError(f"a {type(made).__name__} has no tokens to average; measure it in Python with output=")
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    # Padding must not move the mean of a short text when it is batched with a long one.
    weights = torch.ones_like(states[..., :1]) if mask is None else mask[..., None].to(states)
    return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)
