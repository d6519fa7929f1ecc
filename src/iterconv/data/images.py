"""Image data sets through Hugging Face ``datasets``: Parquet files, image folders, the hub."""

import os
import socket
import tempfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from iterconv.errors import InputError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")


def read_path(path: Path, image_column: str | None, label_column: str | None) -> dict[str, Tensor]:
    """Decode a Parquet file, a folder of Parquet files in the hub's layout, or an image folder.

    Args:
        path: The file or folder.
        image_column: Its name, or None for the usual ones.
        label_column: Its name, or None for the usual ones.

    Returns:
        ``train_images`` (uint8), ``train_targets``, ``classes``, and the same of the test split if there is one.

    Raises:
        InputError: If the files can't be read or don't fit.
    """
    parquet = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if path.is_file() and path.suffix != ".parquet":
        raise InputError(f"{path} is no Parquet file; pass one that ends in .parquet, or a folder")
    if not parquet and not any(folder.is_dir() for folder in path.iterdir()):
        raise InputError(f"{path} holds neither Parquet files nor a folder for each class; check the path")
    with tempfile.TemporaryDirectory() as scratch:  # our own cache keeps the result; theirs would double it
        arguments: dict[str, Any] = {"cache_dir": scratch}
        if parquet:
            arguments |= {"path": "parquet", "data_files": _by_split(parquet)}
        else:
            arguments |= {"path": "imagefolder", "data_dir": str(path)}
        return _read(str(path), arguments, image_column, label_column)


def read_hub(name: str, image_column: str | None, label_column: str | None) -> dict[str, Tensor]:
    """Decode a data set of the Hugging Face hub.

    Args:
        name: ``owner/name``.
        image_column: Its name, or None for the usual ones.
        label_column: Its name, or None for the usual ones.

    Returns:
        As ``read_path``.

    Raises:
        InputError: If the hub is out of reach or has no such data set, or the data don't fit.
    """
    _go_offline_if_unreachable()
    return _read(name, {"path": name}, image_column, label_column)


def _go_offline_if_unreachable() -> None:
    """Spare the user half a minute of retries where the hub's name can't even be looked up; its cache still serves."""
    import huggingface_hub.constants as hub

    host = urlparse(hub.ENDPOINT).hostname
    if urllib.request.getproxies() or not host:
        return  # a proxy looks names up by itself
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        hub.HF_HUB_OFFLINE = True
        _datasets().config.HF_HUB_OFFLINE = True


def _by_split(files: list[Path]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for file in files:
        words = (file.stem + "/" + file.parent.name).lower()
        split = "test" if "test" in words else "validation" if "valid" in words else "train"
        splits.setdefault(split, []).append(str(file))
    if "train" not in splits:
        splits["train"] = splits.pop(next(iter(splits)))
    return splits


def _read(
    name: str, arguments: dict[str, Any], image_column: str | None, label_column: str | None
) -> dict[str, Tensor]:
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(**arguments)
    except Exception as problem:  # noqa: BLE001 - whatever their readers raise, the remedy is the same
        raise InputError(_explain(name, problem)) from None
    tensors: dict[str, Tensor] = {}
    for split in ("train", "test"):
        rows = loaded.get(split)
        if rows is None and split == "test":
            rows = loaded.get("validation")  # the only held-out part of some sets
        if rows is not None:
            images, targets, classes = _decode(f"{name} ({split})", rows, image_column, label_column)
            tensors |= {f"{split}_images": images, f"{split}_targets": targets}
            tensors["classes"] = torch.tensor(max(classes, int(tensors.get("classes", 0))))
    if "train_images" not in tensors:
        raise InputError(f"{name} has no training split but {', '.join(loaded)}; name the files train-*.parquet")
    _check_fit(name, tensors)
    return tensors


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError("reading image data sets needs `datasets`; install iterconv[repro]") from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


def _explain(name: str, problem: Exception) -> str:
    reason = " ".join(str(problem).split())[:160] or type(problem).__name__
    if os.path.exists(name):
        return f"can't read {name} ({reason}); the file may be corrupt or of another layout"
    return (
        f"can't load {name!r} from the Hugging Face hub ({reason}); pass a folder instead, or set "
        "ITERCONV_DATA to a folder that holds mnist/, cifar10/, cifar100/"
    )


def _decode(name: str, rows: Any, image_column: str | None, label_column: str | None) -> tuple[Tensor, Tensor, int]:
    image_column = _column(name, rows.column_names, image_column, IMAGE_COLUMNS, "image")
    label_column = _column(name, rows.column_names, label_column, LABEL_COLUMNS, "label")
    if len(rows) == 0:
        raise InputError(f"{name} has no rows; check the file")
    images = _stack(name, rows, image_column)
    try:
        labels = np.asarray(rows[label_column])
    except (TypeError, ValueError):
        labels = np.asarray([None])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"column {label_column!r} of {name} has no class numbers; choose another label_column")
    classes = getattr(rows.features[label_column], "num_classes", None) or int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"label {wrong} of {name} is out of range; labels are 0..{classes - 1}")
    return images, torch.from_numpy(labels.astype(np.int64)), classes


def _column(name: str, there: list[str], wanted: str | None, usual: tuple[str, ...], kind: str) -> str:
    found = [column for column in ((wanted,) if wanted else usual) if column in there]
    if not found:
        raise InputError(
            f"{name} has no column {wanted or ' or '.join(usual)} but {', '.join(there)}; pass {kind}_column="
        )
    return found[0]


def _stack(name: str, rows: Any, column: str) -> Tensor:
    """All images of a column as one uint8 tensor (n, channels, height, width)."""
    first = _array(name, rows[0][column], 0)
    stacked = np.empty((len(rows), *first.shape), dtype=np.uint8)
    position = 0
    try:
        for batch in rows.select_columns([column]).iter(512):
            for image in batch[column]:
                array = _array(name, image, position)
                if array.shape != first.shape:
                    raise InputError(
                        f"{name} has images of {_size(first)} and, in row {position}, of {_size(array)}; "
                        "make them all of one size"
                    )
                stacked[position] = array
                position += 1
    except InputError:
        raise
    except Exception as problem:  # noqa: BLE001 - Pillow raises many kinds for damaged images
        raise InputError(
            f"an image of {name} after row {position} can't be decoded ({problem}); repair the file"
        ) from None
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def _array(name: str, image: Any, row: int) -> np.ndarray[Any, Any]:
    """One image as (height, width, 1 or 3) uint8."""
    if not hasattr(image, "mode"):
        raise InputError(f"row {row} of {name} holds a {type(image).__name__}, not an image; pass image_column=")
    grey = image.mode in ("1", "L")
    array = np.asarray(image.convert("L" if grey else "RGB"))
    return array[:, :, None] if grey else array


def _size(array: np.ndarray[Any, Any]) -> str:
    return f"{array.shape[0]}x{array.shape[1]} pixels, {array.shape[2]} channel(s)"


def _check_fit(name: str, tensors: dict[str, Tensor]) -> None:
    if "test_images" in tensors and tensors["test_images"].shape[1:] != tensors["train_images"].shape[1:]:
        train, test = (tuple(tensors[f"{split}_images"].shape[1:]) for split in ("train", "test"))
        raise InputError(f"{name} has training images of {train} and test images of {test}; make them all of one size")
