"""What all kinds of models have in common: a user's options, data for them, what errors are taken against."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from iterconv.adapters.calls import call
from iterconv.errors import InputError, line_of
from iterconv.options import Reference
from iterconv.paths.untouched import untouched
from iterconv.tasks.batches import inputs_of
from iterconv.tasks.outputs import logits
from iterconv.zoo import inputs as feeding
from iterconv.zoo.model_options import ModelOptions

PRECISIONS = {"single": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}

Opened = tuple[nn.Module, Iterable[Any], Reference, str, Any]
"""Model, batches, reference, note, what to make of outputs."""


def require_images(options: ModelOptions) -> str:
    """The data's name, or ``InputError`` where none is given; asked before weights are looked for."""
    if options.data is None:
        raise InputError("a vision model needs images; pass --data NAME (digits, mnist, cifar10, a folder, a file)")
    return options.data


def images(
    options: ModelOptions, size: tuple[int, ...], channels: int, mean: Any, std: Any, keyword: str | None = None
) -> Any:
    """A data set's test images as a vision model takes them, and how many classes there are."""
    return feeding.images(
        require_images(options),
        options.examples,
        size=size,
        channels=channels,
        mean=tuple(mean),
        std=tuple(std),
        batch_size=options.batch_size,
        keyword=keyword,
    )


def judged(model: nn.Module, batches: Any, classes: int, outputs: int | None, options: ModelOptions) -> Opened:
    """Labels where they fit the model's outputs, else its own predictions."""
    if outputs is None:
        model = placed(model, options)
        with untouched(model):
            inputs = inputs_of(batches[0], model)
            try:
                outputs = int(logits(call(model, inputs), inputs).shape[-1])
            except InputError:
                raise
            except Exception as problem:  # noqa: BLE001 - whatever a foreign model raises
                shape = tuple(inputs.shape)
                raise InputError(f"the model rejects images of shape {shape} ({line_of(problem)})") from None
    note = f"{type(model).__name__} on {options.data}, test split"
    if outputs == classes:
        return model, batches, "labels", note, None
    note += f"; its {outputs} outputs are not the {classes} classes, so its own predictions are the reference"
    return model, batches, "predictions", note, None


def placed(model: nn.Module, options: ModelOptions) -> nn.Module:
    """A model on the device and in the precision that the user options, in evaluation mode."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device, PRECISIONS[options.precision]).eval()
    except (RuntimeError, AssertionError):
        raise InputError(f"device {device!r} is not there; use 'cpu'") from None
