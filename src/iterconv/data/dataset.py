"""A data set as tensors on a device: three splits, standardisation, batches, augmentation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from iterconv.errors import check_count
from iterconv.tasks import Task, task_of

PADDING = 4
"""Pixels that the augmentation pads on each side before it crops."""

Images = Shaped[Tensor, "n channels height width"]
Inputs = Float[Tensor, "n channels height width"]
Targets = Int[Tensor, " n"] | Float[Tensor, "n classes"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels."""

    images: Images
    """uint8, (n, channels, height, width)."""
    targets: Targets
    """int64 class numbers from 0; or float32 rows of 0 and 1 where an image has several labels."""

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor | slice) -> "Split":
        return Split(self.images[index], self.targets[index])

    def to(self, device: str | torch.device) -> "Split":
        """Return the same split on another device."""
        return Split(self.images.to(device), self.targets.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """A data set with its three splits on one device.

    Choice: images are standardised by the mean and standard deviation of each channel over the training
    split, all its pixels together.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    mean: Float[Tensor, " channels"]
    """The mean of each channel over the training split, on the scale from 0 to 1."""
    std: Float[Tensor, " channels"]
    """The standard deviation of each channel, likewise."""

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.train.images.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.train.images.shape[2]), int(self.train.images.shape[3])

    @property
    def task(self) -> Task:
        """The meaning of a network's outputs for these targets: classes, or label sets."""
        return task_of(self.train.targets)

    @property
    def chance(self) -> float:
        """The error of guessing: 1 - 1/classes, or 1 - labels/classes where an image has several labels."""
        return self.task.chance(self.train.targets, self.classes)

    def normalise(self, images: Images) -> Inputs:
        """Standardise uint8 images to float32 ones."""
        return (images.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]

    def batches(self, split: Split, batch_size: int = 256) -> "Batches":
        """Return a split in order, as standardised (inputs, targets) batches, which ``iterconv.measure`` takes.

        Args:
            split: One of the three.
            batch_size: At least 1; the last batch may be smaller.

        Returns:
            A sequence that can be gone through again and again.

        Raises:
            InputError: If the batch size is below 1.
        """
        return Batches(self, split, check_count("batch_size", batch_size))

    def training_batches(
        self, batch_size: int, generator: torch.Generator, augment: bool = False
    ) -> Iterator[tuple[Inputs, Targets]]:
        """One pass through the training split in random order.

        The last batch may be smaller. Choice: it is left out if it is a single image, as batch norm can't
        train on one.

        Args:
            batch_size: At least 2.
            generator: On the CPU; order and augmentation follow from it alone.
            augment: True to crop and flip, as ``crop_and_flip`` does.

        Yields:
            Standardised (inputs, targets).

        Raises:
            InputError: If the batch size is below 2, at the first batch.
        """
        batch_size = check_count("batch_size", batch_size, 2, why="is too small to train with")
        # On the CPU, so that the order does not depend on the device.
        order = torch.randperm(len(self.train), generator=generator)
        for rows in order.split(batch_size):
            if len(rows) < 2:
                return
            batch = self.train[rows.to(self.train.targets.device)]
            images = crop_and_flip(batch.images, generator) if augment else batch.images
            yield self.normalise(images), batch.targets


def crop_and_flip(images: Images, generator: torch.Generator) -> Images:
    """Pad by 4 on each side, crop each image at its own place, flip about half of them, all in one gather.

    Choice: the customary augmentation of CIFAR, which the text does not give; the padding is black (0 before
    standardisation), places are uniform, a flip has probability 1/2, each image draws its own.

    Args:
        images: Images of any type, of shape (n, channels, height, width).
        generator: On the CPU.

    Returns:
        Images of the same shape and type.
    """
    n, channels, height, width = images.shape
    places = torch.randint(2 * PADDING + 1, (2, n, 1), generator=generator)
    flips = torch.randint(2, (n, 1), generator=generator).bool()
    columns = torch.where(flips, torch.arange(width - 1, -1, -1), torch.arange(width)) + places[1]
    rows = torch.arange(height) + places[0]
    padded = F.pad(images, (PADDING,) * 4)
    # One index for rows and columns together, so that a single gather crops and flips all images.
    index = (rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]).to(images.device)
    return padded.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)


class Batches(Sequence[tuple[Inputs, Targets]]):
    """A split in order, one standardised batch at a time; made by ``Data.batches``."""

    def __init__(self, data: Data, split: Split, batch_size: int) -> None:
        self._data, self._split, self._size = data, split, batch_size

    def __len__(self) -> int:
        return -(-len(self._split) // self._size)

    def __getitem__(self, index: int) -> tuple[Inputs, Targets]:  # type: ignore[override]
        index = range(len(self))[index]  # counts from the end if negative
        batch = self._split[slice(index * self._size, (index + 1) * self._size)]
        return self._data.normalise(batch.images), batch.targets
