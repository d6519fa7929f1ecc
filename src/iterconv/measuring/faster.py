"""Faster ways to run a model while it is measured, which change its numbers by rounding: bfloat16, channels last."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.errors import OptionError, line_of
from iterconv.options import MeasuringPrecision, MemoryFormat
from iterconv.paths.untouched import model_name
from iterconv.tasks.nested import tensors_in, with_tensors

Numbers = Callable[[], AbstractContextManager[Any]]
"""A function that makes a context, in which the model computes in certain numbers."""


@dataclass(frozen=True)
class Way:
    """The precision and the memory format in which a model computes while it is measured."""

    precision: MeasuringPrecision = "weights"
    memory_format: MemoryFormat = "given"

    @property
    def told(self) -> Mapping[str, str]:
        """What a report tells about it: nothing where the model computes as it would by itself."""
        defaults = {"precision": "weights", "memory_format": "given"}
        return {name: getattr(self, name) for name, usual in defaults.items() if getattr(self, name) != usual}

    def numbers(self, model: nn.Module) -> Numbers:
        """Let torch multiply weights of single precision in bfloat16, if that is wanted.

        Args:
            model: The model.

        Returns:
            A function that makes the context.

        Raises:
            InputError: If some weights have another precision, or the model's device has no bfloat16.
        """
        if self.precision == "weights":
            return nullcontext
        others = {str(p.dtype) for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32}
        if others:
            problem = f"is for weights in single precision; {model_name(model)} has {', '.join(sorted(others))}"
            raise OptionError("precision", "bf16", problem)
        device = next((p.device.type for p in model.parameters()), "cpu")
        try:
            torch.autocast(device, torch.bfloat16)
        except RuntimeError as problem:
            raise OptionError("precision", "bf16", f"can't be had on {device} ({line_of(problem)})") from None
        return partial(torch.autocast, device, torch.bfloat16)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Keep weights of four dimensions in this memory format inside; afterwards they are the very tensors of before.

        Args:
            model: The model.
        """
        # Without it, each convolution would bring its weights into the order of the images again.
        arranged = self.memory_format == "channels_last"
        held = [(weight, weight.data) for weight in model.parameters() if arranged and weight.ndim == 4]
        try:
            for weight, values in held:
                weight.data = values.contiguous(memory_format=torch.channels_last)
            yield
        finally:
            for weight, values in held:
                weight.data = values

    def arrange(self, inputs: Any) -> Any:
        """Copy images into this memory format.

        Args:
            inputs: The inputs of a batch: tensors in tuples or dictionaries.

        Returns:
            The inputs, in which tensors of four dimensions are arranged. Torch's layers keep their order in memory.

        Raises:
            InputError: If there are no images among them.
        """
        if self.memory_format == "given":
            return inputs
        images = {place: image for place, image in tensors_in(inputs).items() if image.ndim == 4}
        if not images:
            raise OptionError("memory_format", self.memory_format, "is for images (n, channels, height, width)")
        return with_tensors(
            inputs, {place: image.to(memory_format=torch.channels_last) for place, image in images.items()}
        )


AS_GIVEN = Way()


def widen(rows: Any) -> Any:
    """Return outputs in bfloat16 in single precision, in which probabilities are to be computed."""
    return rows.float() if isinstance(rows, Tensor) and rows.dtype == torch.bfloat16 else rows
