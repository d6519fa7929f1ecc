"""What all kinds of models have in common: a user's wishes, data for them, what errors are taken against."""

import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from iterconv.adapters import logits
from iterconv.adapters.calls import call
from iterconv.batches import inputs_of
from iterconv.errors import InputError
from iterconv.options import Reference
from iterconv.stages import untouched
from iterconv.subjects import feeding
from iterconv.subjects.wishes import Wishes

PRECISIONS = {"single": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}

Opened = tuple[nn.Module, Iterable[Any], Reference, str, Any]
"""Model, batches, reference, note, what to make of outputs."""


def require_images(wishes: Wishes) -> str:
    """The data's name, or ``InputError`` where none is given; asked before weights are looked for."""
    if wishes.data is None:
        raise InputError("a vision model needs images; pass --data NAME (digits, mnist, cifar10, a folder, a file)")
    return wishes.data


def images(
    wishes: Wishes, size: tuple[int, ...], channels: int, mean: Any, std: Any, keyword: str | None = None
) -> Any:
    """A data set's test images as a vision model takes them, and how many classes there are."""
    return feeding.images(
        require_images(wishes),
        wishes.examples,
        size=size,
        channels=channels,
        mean=tuple(mean),
        std=tuple(std),
        batch_size=wishes.batch_size,
        keyword=keyword,
    )


def judged(model: nn.Module, batches: Any, classes: int, outputs: int | None, wishes: Wishes) -> Opened:
    """Labels where they fit the model's outputs, else its own predictions."""
    if outputs is None:
        model = placed(model, wishes)
        with untouched(model):
            inputs = inputs_of(batches[0], model)
            try:
                outputs = int(logits(call(model, inputs), inputs).shape[-1])
            except InputError:
                raise
            except Exception as problem:  # noqa: BLE001 - whatever a foreign model raises
                shape = tuple(inputs.shape)
                raise InputError(f"the model rejects images of shape {shape} ({line_of(problem)})") from None
    note = f"{type(model).__name__} on {wishes.data}, test split"
    if outputs == classes:
        return model, batches, "labels", note, None
    note += f"; its {outputs} outputs are not the {classes} classes, so its own predictions are the reference"
    return model, batches, "predictions", note, None


def placed(model: nn.Module, wishes: Wishes) -> nn.Module:
    """A model on the device and in the precision that the user wishes, in evaluation mode."""
    device = wishes.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device, PRECISIONS[wishes.precision]).eval()
    except (RuntimeError, AssertionError):
        raise InputError(f"device {device!r} is not there; use 'cpu'") from None


def library(name: str) -> Any:
    """A library of models, or ``InputError`` where it can't be imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{name} is not installed; pip install 'iterconv[zoo]'") from None
    except RuntimeError as problem:  # a torchvision that does not fit torch
        raise InputError(
            f"{name} can't be imported ({line_of(problem)}); install matching torch and torchvision"
        ) from None


def line_of(problem: BaseException) -> str:
    """What an exception says, in one short line."""
    return " ".join(str(problem).split())[:160] or type(problem).__name__
