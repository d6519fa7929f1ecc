"""The steps that all kinds of models share: the images, the reference of errors, the device."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from iterconv import data
from iterconv.adapters.calls import call
from iterconv.errors import InputError, line_of
from iterconv.options import Against
from iterconv.paths.untouched import untouched
from iterconv.tasks import Task
from iterconv.tasks.base import logits
from iterconv.tasks.batches import inputs_of
from iterconv.zoo.inputs import ImageBatches
from iterconv.zoo.model_options import ModelOptions

PRECISIONS = {
    **{"single": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16},
    "bf16": torch.float32,  # the weights stay as they are; products are computed in bfloat16
}


@dataclass(frozen=True, eq=False)
class Opened:
    """A model, and the batches on which it is to be measured."""

    model: Any
    batches: Any
    against: Against
    """``"labels"`` if there are labels that fit the model's outputs, else ``"predictions"``."""
    note: str
    """A line that tells the user how model and data were brought together."""
    task: Task | None = None
    """The meaning of the model's outputs, if neither the model nor the targets tell it."""


def require_images(options: ModelOptions) -> str:
    """Return the name of the data; raises ``InputError`` if none is given, before weights are loaded."""
    if options.data is None:
        raise InputError("a vision model needs images; pass --data NAME (digits, mnist, cifar10, a folder, a file)")
    return options.data


def load_images(
    options: ModelOptions, size: tuple[int, int], channels: int, mean: Any, std: Any, keyword: str | None = None
) -> tuple[ImageBatches, int]:
    """Load the test images of a data set in the form that a vision model takes.

    Args:
        options: The user's options, of which the data, the number of examples and the batch size count.
        size: The height and width that the model takes.
        channels: The number of channels that it takes.
        mean: The mean of each channel by which images are standardised, on the scale from 0 to 1.
        std: The standard deviation of each channel, likewise.
        keyword: The name of the argument for the images; None if it is the first one.

    Returns:
        The batches, and the number of classes.

    Raises:
        InputError: If no data are given, or they can't be loaded.
    """
    loaded = data.load(require_images(options), evaluation_samples=options.examples)
    batches = ImageBatches(loaded.test, size, channels, tuple(mean), tuple(std), options.batch_size, keyword)
    return batches, loaded.classes


def choose_reference(
    model: nn.Module, batches: Any, classes: int, outputs: int | None, options: ModelOptions
) -> Opened:
    """Choose what errors are measured against.

    Args:
        model: The model.
        batches: Batches of a data set.
        classes: The number of classes of the data set.
        outputs: The number of outputs of the model; counted on the first batch if None.
        options: The user's options.

    Returns:
        The labels as reference if the model has as many outputs as there are classes, otherwise the model's own
        unperturbed predictions.
    """
    if outputs is None:
        model = to_device(model, options)
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
        return Opened(model, batches, "labels", note)
    # Labels of other classes than the model's say nothing about its errors.
    note += f"; its {outputs} outputs are not the {classes} classes, so its own predictions are the reference"
    return Opened(model, batches, "predictions", note)


def to_device(model: nn.Module, options: ModelOptions) -> nn.Module:
    """Move a model to the device and the precision that the user chose, in evaluation mode."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device, PRECISIONS[options.precision]).eval()
    except (RuntimeError, AssertionError):
        raise InputError(f"device {device!r} is not there; use 'cpu'") from None
