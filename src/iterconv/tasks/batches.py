"""Batches as users have them: pairs, dictionaries, inputs alone; as the model takes them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from iterconv.errors import InputError
from iterconv.tasks import metrics
from iterconv.tasks.tokens import next_tokens


def moved(value: Any, model: Any) -> Any:
    """A nested batch as a model takes it: on its device, floating tensors in its precision.

    Args:
        value: Tensors in tuples, lists or dictionaries.
        model: The device and precision of its first floating parameter count.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return _moved(value, like)


def _moved(value: Any, like: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, Mapping):
        return {name: _moved(part, like) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_moved(part, like) for part in value)
    return value


def first_rows(value: Any, count: int) -> Any:
    """The first examples of a nested batch."""
    if isinstance(value, Tensor):
        return value[:count]
    if isinstance(value, Mapping):
        return {name: first_rows(part, count) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(first_rows(part, count) for part in value)
    return value


def _split(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a batch; None for targets that are not there.

    Choice: two parts are inputs and targets always. That two arguments of a model look the same is not guessed at.
    """
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != "labels"}, batch.get("labels")
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None


def inputs_of(batch: Any, model: Any) -> Any:
    """The inputs of a batch alone, as the model takes them."""
    return moved(_split(batch)[0], model)


def pair(batch: Any, number: int, model: Any, reference: str) -> tuple[Any, Any]:
    """Inputs and targets of a batch as measuring takes them.

    Args:
        batch: A pair, a dictionary with ``labels``, or inputs alone.
        number: The batch's number from 0, for messages.
        model: What it is for; causal language models get their next tokens as targets.
        reference: ``"labels"``, or ``"predictions"`` where targets may be missing.

    Returns:
        The inputs, and the targets or None.

    Raises:
        InputError: If targets are missing or don't fit, or inputs are not finite.
    """
    inputs, targets = _split(batch)
    if getattr(model, "predicts_next_tokens", False) and (targets is None or getattr(targets, "ndim", 0) == 2):
        targets = next_tokens(inputs)
    if targets is None and reference == "predictions":
        metrics.check_inputs(inputs, number)
        return inputs, None
    if targets is None:
        raise InputError(
            f"batch {number} is a {type(batch).__name__}, not a pair; pass (inputs, targets), or measure with "
            "reference='predictions'"
        )
    metrics.check_batch(inputs, targets, number)
    if targets.ndim == 1 and not targets.is_floating_point() and targets.dtype != torch.bool:
        targets = targets.long()  # what torch's losses index by
    return inputs, targets


def pairs(batches: Iterable[Any], model: Any, reference: str) -> Iterator[tuple[int, Any, Any]]:
    """All batches by number, as ``pair`` has them, in the model's place and precision.

    Raises:
        InputError: If one does not fit, or some have class numbers and others rows of labels.
    """
    kinds: dict[int, int] = {}
    for number, batch in enumerate(batches):
        inputs, targets = pair(batch, number, model, reference)
        if targets is not None:
            kinds.setdefault(targets.ndim, number)
        if len(kinds) > 1:
            raise InputError(
                f"batch {number} has targets of {targets.ndim} dimension(s), batch 0 of {next(iter(kinds))}; give all "
                "batches class numbers (n,), or all of them 0/1 rows (n, classes)"
            )
        yield number, moved(inputs, model), moved(targets, model)
