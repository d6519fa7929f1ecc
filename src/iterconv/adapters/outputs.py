"""What a foreign model's outputs and representations mean: logits, tokens, rows that belong to rows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.adapters.calls import first_tensor
from iterconv.errors import InputError

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
