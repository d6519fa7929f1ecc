"""``load``: find a source, decode it once, split it with a seed, put it on a device."""

import difflib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iterconv.data.cache import cached
from iterconv.data.dataset import Data, Split
from iterconv.data.splits import balanced, stratified
from iterconv.errors import InputError


@dataclass(frozen=True)
class Source:
    """A data set as it comes: training rows, and test rows where there are any."""

    train: Split
    test: Split | None
    classes: int


HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
TEST_SHARE = 0.2


def load(
    name: str | os.PathLike[str],
    *,
    samples: int | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    device: str = "cpu",
    image_column: str | None = None,
    label_column: str | None = None,
) -> Data:
    """Load a data set as tensors on a device.

    Source: Lippl et al., Sec. A.4, F. Choice: validation is a tenth of the training split, with the classes'
    shares kept; a source without a test split gives a fifth of its rows as one first. The splits depend on
    ``split_seed`` alone, so all networks see the same.

    Args:
        name: ``"digits"`` (UCI digits, inside scikit-learn); ``"mnist"``, ``"cifar10"``, ``"cifar100"``, from
            ``$ITERCONV_DATA/<name>`` where that is, else from the Hugging Face hub; a folder (a data set
            in the hub's Parquet layout, or images in a folder a class, below train/ and test/ if need be);
            a Parquet file; or a hub name ``owner/name``.
        samples: Train on so many rows only, equally many of each class.
        validation: Share of the training rows, in [0, 1).
        split_seed: Of the splits and of ``samples``.
        device: A torch device.
        image_column: ``image`` or ``img`` by default.
        label_column: ``label``, ``fine_label`` or ``labels`` by default.

    Returns:
        The data.

    Raises:
        InputError: If the name is unknown, the hub out of reach, a file corrupt, a column missing, images of
            unequal size, labels out of range, or an option out of range.
    """
    if not 0 <= validation < 1:
        raise InputError(f"validation={validation} is out of range; use a share from 0 to below 1")
    source = _find(str(name), image_column, label_column)
    train, test = source.train, source.test
    if test is None:
        chosen, others = stratified(train.targets, round(TEST_SHARE * len(train)), split_seed)
        train, test = train[others], train[chosen]
    chosen, others = stratified(train.targets, round(validation * len(train)), split_seed + 1)
    train, held_out = train[others], train[chosen]
    if samples is not None:
        train = train[balanced(train.targets, samples, source.classes, split_seed)]
    mean, std = _statistics(train)
    return Data(
        name=str(name),
        train=train.to(device),
        validation=held_out.to(device),
        test=test.to(device),
        classes=source.classes,
        mean=mean.to(device),
        std=std.to(device),
    )


def _statistics(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in split.images.unbind(1)])
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True)
    mean = weights @ values
    std = ((weights * (values - mean[:, None]) ** 2).sum(1)).sqrt()
    return mean.float(), std.float().clamp(min=1e-6)


def _find(name: str, image_column: str | None, label_column: str | None) -> Source:
    if name in SOURCES:
        return SOURCES[name]()
    path = Path(name)
    if name in HUB:
        local = os.environ.get("ITERCONV_DATA")
        path = Path(local) / name if local else path
        if not (local and path.is_dir()):
            return _from_hub(HUB[name], image_column, label_column)
    if path.exists():
        from iterconv.data.images import read_path

        return _as_source(
            cached(path, (image_column, label_column), lambda: read_path(path, image_column, label_column))
        )
    if name.count("/") == 1 and not name.startswith((".", "~")):
        return _from_hub(name, image_column, label_column)
    known = [*SOURCES, *HUB]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}, a path or a hub name"
    raise InputError(f"there is no data set {name!r}; {hint}")


def _from_hub(name: str, image_column: str | None, label_column: str | None) -> Source:
    from iterconv.data.images import read_hub

    return _as_source(read_hub(name, image_column, label_column))


def _as_source(tensors: dict[str, torch.Tensor]) -> Source:
    test = Split(tensors["test_images"], tensors["test_targets"]) if "test_images" in tensors else None
    return Source(Split(tensors["train_images"], tensors["train_targets"]), test, int(tensors["classes"]))


def _digits() -> Source:
    from sklearn.datasets import load_digits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # grey levels 0..16 to 0..255
    return Source(Split(torch.from_numpy(images), torch.from_numpy(bunch.target).long()), None, 10)


SOURCES: dict[str, Callable[[], Source]] = {"digits": _digits}
"""Data sets that need no file, by name."""
