"""``Tokens``: the next token of a causal language model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.errors import InputError
from iterconv.tasks.base import logits
from iterconv.tasks.classes import Classes


class Tokens(Classes):
    """Logits (n, length, vocabulary); rows are the tokens that are followed by another one which is not padding.

    Targets are the batch's own tokens. The bootstrap resamples whole sequences.
    """

    def outputs(self, made: Any, inputs: Any) -> Tensor:
        """The logits that predict a next token, of shape (tokens, vocabulary)."""
        return next_token(made, inputs)

    def targets(self, given: Any, inputs: Any) -> Any:
        """The next tokens, of shape (tokens,), unless targets of another shape are given."""
        return next_tokens(inputs) if given is None or getattr(given, "ndim", 0) == 2 else given

    def rows(self, z: Any, count: int, inputs: Any) -> Tensor | None:
        """The representation of all tokens that are rows; None if its positions are not the batch's tokens."""
        if not isinstance(z, Tensor) or z.ndim != 3:
            return None
        followed = _followed(inputs).to(z.device)
        return z[:, :-1][followed] if z.shape[:2] == (len(followed), followed.shape[1] + 1) else None

    def units(self, inputs: Any, count: int) -> Tensor | None:
        """The sequence that each token belongs to, of shape (tokens,)."""
        return _followed(inputs).nonzero()[:, 0]


def next_token(made: Any, inputs: Any) -> Tensor:
    """Logits of a causal language model for every token but the first of each sequence, padding left out.

    Args:
        made: The model's output, with logits of shape (n, length, vocabulary).
        inputs: The batch: a dictionary with ``input_ids`` and, where there is padding, ``attention_mask``; or these
            two as a tuple; or the tokens alone.

    Returns:
        A tensor of shape (tokens, vocabulary), in the order of ``next_tokens``.

    Raises:
        InputError: If the batch has no tokens, or the model makes another number of logits than there are tokens.
    """
    found = logits(made)[:, :-1]
    followed = _followed(inputs)
    if found.shape[:2] != followed.shape:
        raise InputError(
            f"the model makes {found.shape[1] + 1} logits of {followed.shape[1] + 1} tokens, so which belongs to which "
            "is not known; pass output=, as lambda output, inputs: output.logits[:, -1]"
        )
    return found[followed.to(found.device)]


def next_tokens(inputs: Any) -> Tensor:
    """The tokens that ``next_token`` predicts, of shape (tokens,)."""
    ids, _ = _tokens(inputs)
    return ids[:, 1:][_followed(inputs)]


def is_causal(model: nn.Module) -> bool:
    """Tell whether a model is a causal language model, by the name that transformers gives such classes."""
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _tokens(inputs: Any) -> tuple[Tensor, Tensor]:
    """The tokens of a batch, and a mask that is 1 where they are not padding."""
    if isinstance(inputs, Mapping):
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    else:
        parts = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
        # Two tensors without names are tokens and mask, in the order in which transformers models take them.
        ids, mask, *_ = [*parts, None, None]
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        raise InputError(
            "a causal language model is measured by its next tokens, and this batch has no input_ids of shape "
            "(n, length); pass a dictionary with input_ids, or output= to measure something else"
        )
    return ids, torch.ones_like(ids) if mask is None else mask


def _followed(inputs: Any) -> Tensor:
    """Tell which tokens but the last of each sequence are followed by another one that is not padding."""
    _, mask = _tokens(inputs)
    # Padding may stand on either side, so both the token and the next one have to be real.
    return (mask[:, 1:] * mask[:, :-1]).bool()
