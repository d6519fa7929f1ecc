"""Any model as a staged one: itself, or adapted to the first batch."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from iterconv.adapters import adapt
from iterconv.errors import InputError
from iterconv.paths.contract import is_staged, require_staged
from iterconv.tasks.batches import first_rows, inputs_of


def as_staged(model: Any, batches: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The model itself if it satisfies the contract, else adapted to the first batch; and all the batches.

    Raises:
        InputError: If there are no batches, or the model can't be adapted.
    """
    if isinstance(batches, (Tensor, str, Mapping)) or not isinstance(batches, Iterable):
        raise InputError(f"batches is a {type(batches).__name__}; pass an iterable of (inputs, targets), as [(x, y)]")
    if not isinstance(model, torch.nn.Module) or is_staged(model):
        require_staged(model)
        return model, batches
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise InputError("there are no batches to measure on; pass an iterable of (inputs, targets)")
    return _adapted(model, first), chain([first], iterator)


PROBED = 4
"""Examples that a model is adapted on: finding and proving takes some forty passes."""


def adapted_to(model: Any, inputs: Any, **options: Any) -> Any:
    """A model adapted on the first examples of a batch, or on all of it where the model doesn't take the first alone.

    Args:
        model: The model.
        inputs: The inputs of a batch.
        options: For ``iterconv.adapt``.
    """
    try:
        return adapt(model, first_rows(inputs, PROBED), **options)
    except InputError:
        return adapt(model, inputs, **options)


def _adapted(model: Any, first: Any) -> Any:
    try:
        return adapted_to(model, inputs_of(first, model))
    except InputError as problem:
        if not isinstance(first, (tuple, list)) or len(first) != 2 or " rejects the batch" not in str(problem):
            raise
        told = "; a batch of two is (inputs, targets): pass ((a, b), None) for inputs of two arguments"
        raise InputError(str(problem) + told) from problem
