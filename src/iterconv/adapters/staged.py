"""Staged models out of any models: a model that satisfies the contract, or one adapted to the first batch."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

from iterconv.adapters.adapt import adapt
from iterconv.errors import InputError
from iterconv.paths.contract import Bindable, is_staged, require_staged
from iterconv.tasks import Task
from iterconv.tasks.batches import first_rows, inputs_of


def as_staged(model: nn.Module, batches: Iterable[Any], task: Task | None = None) -> tuple[Any, Iterable[Any]]:
    """Return the model itself if it satisfies the contract, else the model adapted to the first batch.

    Args:
        model: Any module.
        batches: Batches as for ``iterconv.measure``.
        task: The meaning of the model's outputs; the model's own task by default.

    Returns:
        The staged model, and all the batches, the first one included.

    Raises:
        InputError: If there are no batches, or the model can't be adapted.
    """
    if isinstance(batches, (Tensor, str, Mapping)) or not isinstance(batches, Iterable):
        raise InputError(f"batches is a {type(batches).__name__}; pass an iterable of (inputs, targets), as [(x, y)]")
    if not isinstance(model, nn.Module) or is_staged(model):
        require_staged(model)
        if isinstance(model, Bindable) and task not in (None, model.task):
            raise InputError("the model is adapted already, with a task of its own; pass task= to iterconv.adapt")
        return model, batches
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise InputError("there are no batches to measure on; pass an iterable of (inputs, targets)")
    # Batches may come from a generator, so the first one is put back in front.
    return _adapt_to_batch(model, first, task), chain([first], iterator)


PROBED = 4
"""The number of examples on which a model is adapted; few, since finding and proving takes some forty passes."""


def adapt_on_few(model: Any, inputs: Any, **options: Any) -> Any:
    """Adapt a model on the first examples of a batch, or on all of it if the model does not take the first alone.

    Args:
        model: The model.
        inputs: The inputs of a batch.
        options: Further options of ``iterconv.adapt``.

    Returns:
        The adapted model.
    """
    try:
        return adapt(model, first_rows(inputs, PROBED), **options)
    except InputError:  # some models need the whole batch, as those that reshape it to a fixed size
        return adapt(model, inputs, **options)


def _adapt_to_batch(model: Any, first: Any, task: Task | None) -> Any:
    try:
        return adapt_on_few(model, inputs_of(first, model), task=task)
    except InputError as problem:
        if not isinstance(first, (tuple, list)) or len(first) != 2 or " rejects the batch" not in str(problem):
            raise
        # The commonest mistake: two arguments of the model look like inputs and targets.
        told = "; a batch of two is (inputs, targets): pass ((a, b), None) for inputs of two arguments"
        raise InputError(str(problem) + told) from problem
