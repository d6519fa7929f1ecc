"""Data sets as the batches that a foreign model takes: images are resized and standardised, texts become tokens."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from iterconv.data.dataset import Split
from iterconv.data.hub import offline_if_unreachable
from iterconv.data.images import quiet_datasets
from iterconv.errors import InputError, line_of

TEXT_SUFFIXES = {".txt": "text", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True, eq=False)
class ImageBatches(Sequence[Any]):
    """The test images of a data set, in the form that a vision model expects."""

    split: Split
    size: tuple[int, int]
    """The height and width that the model takes."""
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    keyword: str | None = None
    """The name of the argument for the images; None if it is the first one."""

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        batch = self.split[slice(number * self.batch_size, (number + 1) * self.batch_size)]
        images = batch.images.float() / 255
        if images.shape[1] != self.channels:  # colours become grey, and grey fills all channels
            images = images.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        if tuple(images.shape[2:]) != self.size:
            # Bicubic interpolation overshoots at edges.
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        inputs = (images - mean) / std
        return ({self.keyword: inputs} if self.keyword else inputs), batch.targets


def texts(name: str, examples: int) -> tuple[list[str], Tensor | None]:
    """Load texts, and their labels if there are any.

    Args:
        name: A file (.txt with one text on each line, or .csv, .json, .jsonl, .parquet with a column ``text`` or
            ``sentence`` and perhaps ``label``), or a name on the Hugging Face hub.
        examples: The largest number of texts; the first ones that are not empty are taken.

    Returns:
        The texts, and their class numbers or None.

    Raises:
        InputError: If the texts can't be read, or if there is no such column or no text.
    """
    path = Path(name).expanduser()
    if path.suffix in TEXT_SUFFIXES and not path.exists():
        raise InputError(f"there is no file {path}; pass one with one text a line")
    if path.exists() and path.suffix not in TEXT_SUFFIXES:
        raise InputError(f"{path} is no file of texts; pass one that ends in {', '.join(TEXT_SUFFIXES)}")
    with quiet_datasets() as datasets:
        try:
            if path.exists():
                rows = datasets.load_dataset(
                    TEXT_SUFFIXES[path.suffix], data_files=glob.escape(str(path)), split="train"
                )
            else:
                with offline_if_unreachable():
                    rows = datasets.load_dataset(name, split="test")
        except Exception as problem:  # noqa: BLE001 - whatever their readers raise, the remedy is the same
            told = line_of(problem, 120)
            raise InputError(
                f"can't read texts from {name!r} ({told}); pass a .txt, .csv, .jsonl or .parquet"
            ) from None
    column = next((known for known in ("text", "sentence") if known in rows.column_names), None)
    if column is None:
        raise InputError(f"{name} has the columns {', '.join(rows.column_names)}; name the texts' one `text`")
    kept = list(islice((row for row in rows if str(row[column] or "").strip()), examples))
    if not kept:
        raise InputError(f"{name} holds no text; pass a file with one text a line")
    labels = next((known for known in ("label", "labels") if known in rows.column_names), None)
    known = labels is not None and all(isinstance(row[labels], int) for row in kept)
    numbers = torch.tensor([row[labels] for row in kept]) if known else None
    return [str(row[column]) for row in kept], numbers


def tokens(tokenizer: Any, found: list[str], labels: Tensor | None, batch_size: int, length: int) -> list[Any]:
    """Turn texts into padded batches: pairs (dictionary, labels), or dictionaries alone.

    Args:
        tokenizer: A tokenizer of transformers.
        found: The texts.
        labels: The class numbers of the texts, or None.
        batch_size: The number of texts in a batch.
        length: The most tokens of a text.

    Returns:
        The batches.

    Raises:
        InputError: If the tokenizer makes no tokens of the texts.
    """
    if tokenizer.pad_token is None:  # as GPT-2's; the attention mask tells padding from the end of a text
        tokenizer.pad_token = tokenizer.eos_token
    batches: list[Any] = []
    for first in range(0, len(found), batch_size):
        rows = slice(first, first + batch_size)
        encoded = dict(tokenizer(found[rows], padding=True, truncation=True, max_length=length, return_tensors="pt"))
        if not encoded["input_ids"].numel():
            raise InputError("the tokenizer makes no tokens of the texts; save the model's own beside it")
        batches.append(encoded if labels is None else (encoded, labels[rows]))
    return batches
