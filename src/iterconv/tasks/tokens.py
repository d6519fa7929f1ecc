"""Next tokens: what the outputs of a causal language model mean."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.errors import InputError
from iterconv.tasks.outputs import logits, without_padding


def next_token(output: Any, inputs: Any) -> Tensor:
    """Logits of a causal language model for every token but the first of each sequence, padding left out.

    Args:
        output: What the model returns; logits of shape (n, length, vocabulary).
        inputs: The batch: a dictionary with ``input_ids`` and, where there is padding, ``attention_mask``; or these
            two as a tuple; or the tokens alone.

    Returns:
        A tensor of shape (tokens, vocabulary), in the order of ``next_tokens``.
    """
    found = logits(output, inputs)[:, :-1]
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


def sequences(inputs: Any) -> Tensor:
    """Which sequence of the batch each token that ``next_token`` predicts belongs to, of shape (tokens,)."""
    return _followed(inputs).nonzero()[:, 0]


def is_causal(model: nn.Module) -> bool:
    """Whether a model is a causal language model by the name that transformers gives such classes."""
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _tokens(inputs: Any) -> tuple[Tensor, Tensor]:
    """The tokens of a batch, and 1 where they are no padding."""
    if isinstance(inputs, Mapping):
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    else:
        parts = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
        ids, mask, *_ = [*parts, None, None]
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        raise InputError(
            "a causal language model is measured by its next tokens, and this batch has no input_ids of shape "
            "(n, length); pass a dictionary with input_ids, or output= to measure something else"
        )
    return ids, torch.ones_like(ids) if mask is None else mask


def _followed(inputs: Any) -> Tensor:
    """Which tokens but the last of each sequence are followed by another one that is no padding."""
    _, mask = _tokens(inputs)
    return (mask[:, 1:] * mask[:, :-1]).bool()


def rows_of(z: Any, count: int, inputs: Any, tokens: bool) -> Tensor | None:
    """A stage's output with one row for each of ``count`` rows of the model's output, padding set to 0.

    Args:
        z: The representation; None where a perturbed pass never reached the stage.
        count: Rows of the model's output.
        inputs: The batch.
        tokens: Whether the rows are the tokens that ``next_token`` predicts.

    Returns:
        The rows; None where those of the representation don't correspond to those of the output, as in patches that
        were moved into the batch, or sequences that come first.
    """
    if not isinstance(z, Tensor) or z.ndim < 2:
        return None
    if tokens:
        followed = _followed(inputs).to(z.device)
        fits = z.ndim == 3 and z.shape[0] == len(followed) and z.shape[1] == followed.shape[1] + 1
        return z[:, :-1][followed] if fits else None
    if len(z) == count:
        return without_padding(z, inputs)
    return z.flatten(0, 1) if z.ndim > 2 and z.shape[0] * z.shape[1] == count else None
