"""``Pixels``: a class for each pixel, as in segmentation."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iterconv.errors import InputError
from iterconv.tasks.base import logits
from iterconv.tasks.classes import Classes
from iterconv.tasks.nested import first_tensor


@dataclass(frozen=True)
class Pixels(Classes):
    """Outputs of shape (n, classes, height, width), targets (n, height, width); rows are pixels.

    The bootstrap resamples whole images.

    Args:
        ignored: The class number of pixels that don't count; 255 as in Pascal VOC and Cityscapes.
    """

    ignored: int = 255

    def outputs(self, made: Any, inputs: Any) -> Tensor:
        """The logits of all pixels, of shape (n * height * width, classes)."""
        found = logits(made)
        if found.ndim != 4:
            raise InputError(f"a task of pixels needs logits (n, classes, height, width), not {tuple(found.shape)}")
        return found.movedim(1, -1).flatten(0, 2)

    def targets(self, given: Any, inputs: Any) -> Any:
        """The targets of all pixels, of shape (n * height * width,)."""
        if given is None:
            return None
        if not isinstance(given, Tensor) or given.ndim != 3:
            raise InputError("a task of pixels needs targets of shape (n, height, width), a class number a pixel")
        return given.flatten()

    def rows(self, z: Any, count: int, inputs: Any) -> Tensor | None:
        """The representation at each pixel; None unless the feature maps are as large as the output."""
        if not isinstance(z, Tensor) or z.ndim != 4 or z.shape[0] * z.shape[2] * z.shape[3] != count:
            return None
        return z.movedim(1, -1).flatten(0, 2)

    def units(self, inputs: Any, count: int) -> Tensor | None:
        """The image that each pixel belongs to."""
        # Neighbouring pixels are not independent, so whole images are drawn.
        images = len(first_tensor(inputs))
        return torch.arange(images).repeat_interleave(count // images)

    def counted(self, targets: Tensor) -> Tensor | None:
        """All pixels whose target is not ``ignored``."""
        return targets != self.ignored
