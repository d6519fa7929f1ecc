"""Batches as users have them (pairs, dictionaries, inputs alone), and as the model takes them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from iterconv.errors import InputError
from iterconv.paths.contract import Bindable
from iterconv.tasks.nested import tensors_in


def match_model(value: Any, model: Any) -> Any:
    """Copy a nested batch to a model's device, and its floating tensors to the model's precision.

    It is a copy, so that a model that changes its input in place leaves the user's batch alone.

    Args:
        value: Tensors in tuples, lists or dictionaries.
        model: A module, whose first parameter tells the device. If all its floating parameters have one precision, the
            batch gets it; if they differ, the batch keeps its own.
    """
    device = next((p.device for p in model.parameters()), None)
    precisions = {p.dtype for p in model.parameters() if p.is_floating_point()}
    precision = precisions.pop() if len(precisions) == 1 else None
    return _map(lambda x: x.to(device, precision if x.is_floating_point() else None, copy=True), value)


def first_rows(value: Any, count: int) -> Any:
    """Take the first ``count`` examples of a nested batch."""
    return _map(lambda tensor: tensor[:count], value)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to all tensors of a nested batch."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        # Tokenizers return mappings of their own classes; tasks look into plain dictionaries.
        return {name: _map(function, part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_map(function, part) for part in value)
    return value


def inputs_by_name(inputs: Any, model: Any) -> Any:
    """Return the inputs by the names of the model's arguments, if the model can name them, else as they are."""
    return model.named(inputs) if isinstance(model, Bindable) else inputs


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Split a batch into its inputs and its targets; targets are None where there are none.

    Choice: two parts are inputs and targets always. That two arguments of a model look the same is not guessed at.
    """
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != "labels"}, batch.get("labels")
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None


def inputs_of(batch: Any, model: Any) -> Any:
    """Take the inputs of a batch alone, on the model's device and in its precision."""
    return match_model(split_batch(batch)[0], model)


def check_inputs(inputs: Any, number: int) -> None:
    """Raise ``InputError`` for inputs that are empty or have NaN. Masks among several inputs may be infinite.

    Args:
        inputs: The model's input; tensors are checked, anything else is left to the model.
        number: The batch's number from 0, for the message.
    """
    tensors = [tensor for tensor in tensors_in(inputs).values() if tensor.is_floating_point()]
    bad = [torch.isfinite(tensor).logical_not() if tensor is inputs else tensor.isnan() for tensor in tensors]
    if any(bool(found.any()) for found in bad):
        raise InputError(f"batch {number} has NaN or infinite inputs; clean the data before measuring")
    if isinstance(inputs, Tensor) and (inputs.ndim == 0 or len(inputs) == 0):
        raise InputError(f"batch {number} is empty or a single number; pass batches of at least one example")


def check_targets(inputs: Any, targets: Any, number: int) -> None:
    """Raise ``InputError`` for targets that are not a tensor, are empty, or are not as many as the inputs.

    Args:
        inputs: The model's input.
        targets: The targets that came with the inputs.
        number: The batch's number from 0, for the message.
    """
    if not isinstance(targets, Tensor):
        raise InputError(f"batch {number} has targets of type {type(targets).__name__}; pass (inputs, targets) tensors")
    if targets.ndim == 0 or len(targets) == 0:
        raise InputError(f"batch {number} is empty or a single number; pass batches of at least one example")
    if isinstance(inputs, Tensor) and len(inputs) and len(inputs) != len(targets):
        raise InputError(f"batch {number} has {len(inputs)} inputs and {len(targets)} targets; they must pair up")
