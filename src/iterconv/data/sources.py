"""One loader per source: the data sets known by name, and whatever a path or a hub name leads to."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from iterconv.data.cache import from_cache
from iterconv.data.dataset import Split
from iterconv.data.decoding import Columns
from iterconv.data.digitclutter import generate
from iterconv.data.images import read_hub, read_path
from iterconv.data.known import KNOWN, KnownData
from iterconv.errors import InputError, require, suggest
from iterconv.files import read_tensors


@dataclass(frozen=True, eq=False)
class Source:
    """A data set before it is split: training images, and test images if the source has them."""

    train: Split
    test: Split | None
    classes: int


def find(name: str, columns: Columns) -> Source:
    """Find and decode the data that a name, a path or a hub name means.

    Args:
        name: The name, as ``load`` takes it.
        columns: Names of the image and label columns, None for the usual ones.

    Returns:
        The source, decoded.

    Raises:
        InputError: If nothing answers to the name, or what does can't be read.
    """
    if name in SOURCES:
        return SOURCES[name](columns)
    path = Path(os.path.expanduser(name))
    if path.suffix == ".safetensors" and os.path.isfile(path):
        return _made_digitclutter(path)
    if name and os.path.exists(path):
        return _as_source(read_path(path, columns))
    # Whatever can't be a hub name is refused here, before the hub is asked.
    if len(name) < 200 and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and path.suffix != ".parquet":
        return _as_source(read_hub(name, columns))
    raise InputError(f"there is no data set {name[:80]!r}; {suggest(name, [*SOURCES, 'a path or a hub name'])}")


def _as_source(tensors: dict[str, torch.Tensor]) -> Source:
    test = Split(tensors["test_images"], tensors["test_targets"]) if "test_images" in tensors else None
    return Source(Split(tensors["train_images"], tensors["train_targets"]), test, int(tensors["classes"]))


def _digits(_: Columns) -> Source:
    bunch = require("sklearn.datasets", "the data set digits").load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return Source(Split(torch.from_numpy(images), torch.from_numpy(bunch.target).long()), None, 10)


def _benchmark(name: str, hub_name: str, columns: Columns) -> Source:
    """Read a data set of the hub from ``$ITERCONV_DATA``, if that has a folder of its name, else from the hub."""
    folder = Path(os.environ.get("ITERCONV_DATA", "")) / name
    local = "ITERCONV_DATA" in os.environ and folder.is_dir()
    return _as_source(read_path(folder, columns) if local else read_hub(hub_name, columns))


def _digitclutter(digits: int, sizes: tuple[int, int], _: Columns) -> Source:
    """Make so many training images (those for validation included) and test images, or find them in the cache."""

    def make() -> dict[str, torch.Tensor]:
        tensors = {"classes": torch.tensor(10)}
        # Two seeds, so that no test image is a training image.
        for seed, (split, n) in enumerate(zip(("train", "test"), sizes, strict=True)):
            made = generate(n, digits, seed=seed, masks=False)
            tensors[f"{split}_images"] = torch.from_numpy(made.images)[:, None]
            tensors[f"{split}_targets"] = torch.from_numpy(made.targets).float()
        return tensors

    return _as_source(from_cache(["digitclutter", digits, sizes], make))


def _made_digitclutter(path: Path) -> Source:
    """Read the images that ``iterconv data digitclutter`` wrote."""
    tensors = read_tensors(path)
    if not {"images", "targets", "visible"} <= set(tensors):
        raise InputError(f"{path} holds no images; pass what `iterconv data digitclutter --out` wrote")
    return Source(Split(tensors["images"][:, None], tensors["targets"].float()), None, tensors["targets"].shape[1])


def _loader(name: str, known: KnownData) -> Callable[[Columns], Source]:
    if known.hub:
        return partial(_benchmark, name, known.hub)
    if known.clutter:
        return partial(_digitclutter, known.clutter, (known.images.training, known.images.test))
    if name != "digits":
        raise ValueError(f"the data set {name!r} of data/known.py has no source; give it hub=")
    return _digits


SOURCES: dict[str, Callable[[Columns], Source]] = {name: _loader(name, known) for name, known in KNOWN.items()}
"""The functions that load the data of each name."""


def register(name: str, source: Callable[[], Source]) -> None:
    """Make a data set of your own known by name, as for ``iterconv.data.load`` and ``RunConfig(data=...)``.

    Args:
        name: The name.
        source: A function that returns the data set's training images and, if it has any, test images.

    Raises:
        InputError: If the name is that of one of iterconv's own data sets.
    """
    if name in KNOWN:
        raise InputError(f"the data set {name!r} is iterconv's own; choose another name")
    SOURCES[name] = lambda columns: source()
