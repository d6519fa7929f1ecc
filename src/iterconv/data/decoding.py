"""From rows of a ``datasets`` data set to tensors, with every doubt about the rows raised as an ``InputError``."""

import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterconv.errors import InputError, check_memory, line_of

Columns = tuple[str | None, str | None]
"""Names of the image and label columns, None for the usual ones."""

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")


def decode(name: str, splits: Mapping[str, Any], columns: Columns) -> dict[str, Tensor]:
    """Decode the training split, and the test split if there is one.

    Choice: the validation split of a source without a test split is its test split; that of any other is unused.

    Args:
        name: The name of the data in error messages.
        splits: ``datasets`` data sets by split.
        columns: Names of the image and label columns.

    Returns:
        ``train_images`` (uint8, n channels height width), ``train_targets`` (int64), the same with ``test_``
        where there is one, and ``classes``.

    Raises:
        InputError: If a split or column is missing, an image is damaged, of another size or not of 8 bits, or
            labels are not integers 0..classes-1.
    """
    if "train" not in splits:
        raise InputError(f"{name} has no training split but {', '.join(splits)}; name it train")
    tensors: dict[str, Tensor] = {}
    for split, rows in (("train", splits["train"]), ("test", splits.get("test", splits.get("validation")))):
        if rows is not None:
            label = f"{name} ({split})"
            tensors[f"{split}_images"], tensors[f"{split}_targets"] = _decode_rows(label, rows, columns)
    label_column = _column(name, splits["train"].column_names, columns[1], LABEL_COLUMNS, "label")
    declared = getattr(splits["train"].features[label_column], "num_classes", None)
    _check(name, tensors, declared)
    highest = max(int(tensors[key].max()) for key in tensors if key.endswith("targets"))
    return tensors | {"classes": torch.tensor(declared or highest + 1)}


def _decode_rows(name: str, rows: Any, columns: Columns) -> tuple[Tensor, Tensor]:
    image_column = _column(name, rows.column_names, columns[0], IMAGE_COLUMNS, "image")
    label_column = _column(name, rows.column_names, columns[1], LABEL_COLUMNS, "label")
    if len(rows) == 0:
        raise InputError(f"{name} has no rows; check the file")
    labels = rows[label_column][:]
    wrong = [label for label in labels if type(label) is not int]
    if wrong:
        raise InputError(
            f"label {wrong[0]!r:.40} of {name} is not a class number; pass another label_column= to iterconv.data.load"
        )
    return _stack(name, rows, image_column), torch.tensor(labels)


def _column(name: str, there: list[str], wanted: str | None, usual: tuple[str, ...], kind: str) -> str:
    found = [column for column in ((wanted,) if wanted else usual) if column in there]
    if not found:
        raise InputError(
            f"{name} has no column {wanted or ' or '.join(usual)} but {', '.join(there)}; "
            f"pass {kind}_column= to iterconv.data.load"
        )
    return found[0]


def _stack(name: str, rows: Any, column: str) -> Tensor:
    """All images of a column as one uint8 tensor (n, channels, height, width)."""
    arrays = _arrays(name, rows, column)
    first = next(arrays)
    check_memory(
        len(rows) * first.nbytes, f"{len(rows)} images of {_size(first)} in {name}", "use fewer or smaller ones"
    )
    stacked = np.empty((len(rows), *first.shape), dtype=np.uint8)
    for row, array in enumerate(chain([first], arrays)):
        if array.shape != first.shape:
            raise InputError(
                f"{name} has images of {_size(first)} and of {_size(array)} (row {row}); {_remedy(first, array)}"
            )
        stacked[row] = array
    return torch.from_numpy(stacked)


def _arrays(name: str, rows: Any, column: str) -> Iterator[NDArray[np.uint8]]:
    from datasets import Image

    row = 0
    try:
        # Encoded, so that one image at a time is decoded; also those in a file without a feature schema.
        rows = rows.select_columns([column]).cast_column(column, Image(decode=False))
        # A few hundred encoded images at a time: by single rows it takes far longer, and all at once too much memory.
        for batch in rows.iter(512):
            for encoded in batch[column]:
                yield _array(name, encoded and Image().decode_example(_read(encoded)), row)
                row += 1
    except InputError:
        raise
    except Exception as problem:  # noqa: BLE001 - Pillow raises many kinds for damaged images
        reason = re.sub(r" <[^>]* at 0x\w+>", "", line_of(problem))
        raise InputError(
            f"the image in row {row} of {name} can't be decoded ({reason}); "
            "repair the file or pass image_column= to iterconv.data.load"
        ) from None


def _read(encoded: dict[str, Any]) -> dict[str, Any]:
    """An encoded image with its bytes, as Pillow would leave a damaged file open."""
    local = encoded["bytes"] is None and os.path.isfile(encoded["path"] or "")
    return {"path": None, "bytes": Path(encoded["path"]).read_bytes()} if local else encoded


def _array(name: str, image: Any, row: int) -> NDArray[np.uint8]:
    """One image as (1 or 3, height, width) uint8."""
    if image is None:
        raise InputError(f"row {row} of {name} holds no image; drop the row")
    if image.mode[0] in "IF":  # Pillow would clip these without a word
        pixels = np.asarray(image)
        raise InputError(
            f"row {row} of {name} has {pixels.dtype} pixels from {pixels.min()} to {pixels.max()}; "
            "save the images with 8 bits a channel"
        )
    # Palettes and transparency become colour; only images that are grey by their format stay grey.
    grey = image.mode in ("1", "L", "LA")
    array = np.asarray(image.convert("L" if grey else "RGB"))
    return array[None] if grey else array.transpose(2, 0, 1)


def _size(array: NDArray[np.uint8] | Tensor) -> str:
    return f"{array.shape[1]}x{array.shape[2]} pixels, {array.shape[0]} channel(s)"


def _remedy(a: NDArray[np.uint8] | Tensor, b: NDArray[np.uint8] | Tensor) -> str:
    if a.shape[1:] == b.shape[1:]:
        return "save them all in grey, or all in colour"
    return "make them all of one size"


def _check(name: str, tensors: dict[str, Tensor], declared: int | None) -> None:
    first, last = tensors["train_images"][0], tensors.get("test_images", tensors["train_images"])[0]
    if first.shape != last.shape:
        raise InputError(
            f"{name} has training images of {_size(first)} and test images of {_size(last)}; {_remedy(first, last)}"
        )
    targets = torch.cat([tensors[key] for key in tensors if key.endswith("targets")])
    classes = declared or len(targets)  # more classes than rows are identifiers, not labels
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise InputError(
            f"label {int(wrong[0])} of {name} is out of range; "
            f"labels are 0..{classes - 1}, or pass label_column= to iterconv.data.load"
        )
