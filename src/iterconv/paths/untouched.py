"""Evaluation that leaves no trace in a model, and messages of one line for batches that a model rejects."""

import copy
import random
import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iterconv.errors import InputError, describe_error


class Snapshot:
    """A record of the state that evaluation may change: buffers, plain attributes (modes among them), random states.

    Attributes that are tensors, lists, dictionaries or sets are restored with their contents. Changes within any other
    object, such as one of the user's classes, are not noticed.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        # Parameters are left out: without gradients nothing changes them, and copies would double the memory of a
        # model.
        owners = [owner for module in model.modules() for owner in (module._buffers, module.__dict__)]
        # Scripted modules keep their attributes within torch, and have no plain dictionaries to restore.
        self._owners = [(owner, len(owner), *_sort_contents(owner)) for owner in owners if isinstance(owner, dict)]
        kinds = {parameter.device.type for parameter in model.parameters()} - {"cpu", "meta"}
        self._accelerators = [torch.get_device_module(kind) for kind in sorted(kinds)]
        self._random = self._random_states()

    def _random_states(self) -> tuple[Any, ...]:
        accelerators = [module.get_rng_state() for module in self._accelerators if hasattr(module, "get_rng_state")]
        return torch.get_rng_state(), random.getstate(), np.random.get_state(), accelerators

    def restore(self) -> None:
        """Put everything back as it was when the snapshot was taken."""
        with torch.no_grad():
            for owner, count, plain, changeable in self._owners:
                for name, value, kept in changeable:
                    _refill(value, kept)
                    owner[name] = value
                for name, value in plain:
                    # The snapshot itself stands for a missing attribute, as no module holds it.
                    if owner.get(name, self) is not value:
                        owner[name] = value
                # Attributes that have been added are removed. Their number tells whether there are any, without a set
                # for each module.
                if len(owner) != count:
                    known = {name for name, *_ in (*plain, *changeable)} | _MACHINERY
                    for name in set(owner) - known:
                        del owner[name]
        torch.set_rng_state(self._random[0])
        random.setstate(self._random[1])
        np.random.set_state(self._random[2])
        for module, state in zip(self._accelerators, self._random[3], strict=False):
            module.set_rng_state(state)


HANDLER = "_iterconv_handler"
"""The attribute that holds a module's handler, while one answers the module's calls."""
# An empty module tells the attributes of the present version of torch.
_MACHINERY = (set(nn.Module().__dict__) - {"training"}) | {HANDLER}
"""The attributes that torch's modules have for torch's own purposes."""


def _sort_contents(owner: dict[str, Any]) -> tuple[list[tuple[str, Any]], list[tuple[str, Any, Any]]]:
    """Sort attributes into those that can only be replaced and, with copies, those whose contents can change."""
    named = [(name, value) for name, value in owner.items() if name not in _MACHINERY]
    plain = [(name, value) for name, value in named if not isinstance(value, _CHANGEABLE)]
    return plain, [(name, value, _copy(value)) for name, value in named if isinstance(value, _CHANGEABLE)]


_CHANGEABLE = (Tensor, list, dict, set, deque)


def _copy(value: Any) -> Any:
    """Copy the contents of a tensor or container; tensors on the meta device have none."""
    if isinstance(value, Tensor):
        return None if value.is_meta else value.detach().clone()
    return copy.copy(value)


def _refill(value: Any, kept: Any) -> None:
    """Give a tensor or container the contents that it had, unless it still has them."""
    if isinstance(value, Tensor) and kept is not None and not torch.equal(value, kept):
        value.data = kept.clone()  # also if it has another shape now, which copy_ would refuse
    elif isinstance(value, dict) and not _are_alike([*value, *value.values()], [*kept, *kept.values()]):
        value.clear()
        value.update(kept)
    elif isinstance(value, (list, deque)) and not _are_alike(value, kept):
        value.clear()
        value.extend(kept)
    elif isinstance(value, set) and value != kept:
        value.clear()
        value.update(kept)


def _are_alike(some: Collection[Any], others: Collection[Any]) -> bool:
    """Return True if two collections hold the same objects; equality of tensors would not be one truth value."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _switch_off_compilation() -> Any:
    """Let compiled modules run as they were written; without the compiler, whose import is slow, there are none."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluate ``model`` inside without leaving a trace.

    Inside, the model is in evaluation mode, no gradients are recorded, compiled modules run as they were written, and
    transformer layers of torch run module by module. Afterwards each module's mode, buffers and plain attributes and
    the random states of torch, NumPy and Python are as they were, also when an error is raised.

    Args:
        model: Any module.
    """
    snapshot = Snapshot(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)  # the fast path would bypass the modules within the layers
        with _switch_off_compilation(), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        snapshot.restore()


@contextmanager
def rejections_in_a_line(model: Any) -> Iterator[None]:
    """Turn the exceptions of a model that can't take a batch into one ``InputError`` of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        told = describe_error(problem, 200)
        if isinstance(problem, MemoryError) or "memory" in told:  # the batch fits the model, but not the machine
            raise
        raise InputError(
            f"{model_name(model)} rejects the batch ({told}); check that model(batch) runs by itself, and pass what it "
            "takes: a tensor, a tuple of arguments or a dictionary"
        ) from problem


def model_name(model: Any) -> str:
    """Return the name of a model's class, or of the class of the foreign model that an adapter drives."""
    return type(getattr(model, "model", model)).__name__
