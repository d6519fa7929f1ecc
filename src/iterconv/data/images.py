"""Sources of images: Parquet files, image folders and the hub, read by Hugging Face ``datasets``."""

import glob
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from iterconv.data.cache import files_of, from_cache, stamp
from iterconv.data.decoding import Columns, decode
from iterconv.data.hub import offline_if_unreachable
from iterconv.data.known import KNOWN
from iterconv.errors import InputError, check_memory, line_of, require

_SPLITS = {"test": {"test", "testing"}, "validation": {"validation", "valid", "val", "dev"}}


def read_path(path: Path, columns: Columns) -> dict[str, Tensor]:
    """Decode a Parquet file, a folder of Parquet files in the hub's layout, or an image folder.

    Args:
        path: The file or folder.
        columns: The names of the image and label columns; None for the usual ones.

    Returns:
        The tensors of ``decode``, from the cache if it holds them.

    Raises:
        InputError: If the files can't be read or don't fit.
    """
    try:
        return from_cache([*stamp(path), *columns], lambda: _read_files(path, columns))
    except OSError as problem:
        place = problem.filename or path
        raise InputError(f"can't read {place} ({problem.strerror}); check the path and its rights") from None


def read_hub(name: str, columns: Columns) -> dict[str, Tensor]:
    """Decode a data set of the Hugging Face hub.

    Args:
        name: The name on the hub, as ``owner/name``.
        columns: The names of the image and label columns; None for the usual ones.

    Returns:
        The tensors of ``decode``, from the cache if it holds them.

    Raises:
        InputError: If the hub is out of reach or has no such data set, or the data don't fit.
    """
    folders = ", ".join(f"{known}/" for known, about in KNOWN.items() if about.hub)
    remedy = f"pass a folder instead, or set ITERCONV_DATA to a folder that holds {folders}"
    with quiet_datasets() as datasets, offline_if_unreachable():
        try:
            splits = datasets.load_dataset(name)
        except Exception as problem:  # noqa: BLE001 - whatever the hub's client raises, the remedy is the same
            raise InputError(f"can't load {name!r} from the Hugging Face hub ({line_of(problem)}); {remedy}") from None
        # The fingerprints change when the data on the hub do, so that a stale cache is not read.
        prints = [rows._fingerprint for rows in splits.values()]
        return from_cache([name, prints, *columns], lambda: decode(name, splits, columns))


def _read_files(path: Path, columns: Columns) -> dict[str, Tensor]:
    if path.is_file() and path.suffix != ".parquet":
        raise InputError(f"{path} is not a Parquet file; pass one that ends in .parquet, or a folder")
    parquet = [file for file in files_of(path) if file.suffix == ".parquet"]
    if not parquet and not any(folder.is_dir() for folder in path.iterdir()):
        raise InputError(f"{path} holds neither Parquet files nor a folder for each class; check the path")
    files = {"data_files": _sort_by_split(path, parquet)} if parquet else {"data_dir": str(path)}
    kind = "parquet" if parquet else "imagefolder"
    # Our own cache keeps the result, so the one of ``datasets`` goes to a folder that is deleted.
    with quiet_datasets() as datasets, tempfile.TemporaryDirectory() as scratch:
        for file in parquet:
            _check_size(file)
        try:
            splits = datasets.load_dataset(kind, cache_dir=scratch, **files)
        except Exception as problem:  # noqa: BLE001 - whatever their readers raise, the remedy is the same
            raise InputError(
                f"can't read {path} ({line_of(problem)}); the file may be corrupt, empty or of another layout"
            ) from None
        return decode(str(path), splits, columns)


def _check_size(file: Path) -> None:
    """Refuse a Parquet file that is small on disk but too large for memory, as one of many equal rows."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as opened:
            rows = opened.metadata.num_rows
            first = next(opened.iter_batches(batch_size=1), None)
    except (OSError, ValueError, pyarrow.ArrowException) as problem:
        raise InputError(
            f"can't read {file} ({line_of(problem)}); the file may be corrupt or no Parquet file"
        ) from None
    if first is not None:
        check_memory(rows * first.nbytes, f"{rows} rows of {file}", "split the file, or use fewer rows")


def _sort_by_split(root: Path, files: list[Path]) -> dict[str, list[str]]:
    """Sort Parquet files by the split that a word of their path below the root names; ``train`` without one."""
    splits: dict[str, list[str]] = {}
    for file in files:
        # Files are named in many ways: `train-00000-of-00001.parquet`, `data/test/0.parquet`.
        words = set(re.split("[^a-z]+", str(file.relative_to(root)).lower()))
        split = next((name for name, names in _SPLITS.items() if names & words), "train")
        splits.setdefault(split, []).append(_as_pattern(file))
    # A single split is for training, whatever it is called.
    return splits if len(splits) > 1 else {"train": [_as_pattern(file) for file in files]}


def _as_pattern(file: Path) -> str:
    """Escape the name of a file, since ``datasets`` takes names for patterns."""
    return glob.escape(str(file))


@contextmanager
def quiet_datasets() -> Iterator[Any]:
    """Yield the ``datasets`` module, silenced; raises ``InputError`` if it is not installed."""
    datasets = require("datasets", "reading data sets")
    verbosity, silent = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors come back as exceptions
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not silent:
            datasets.enable_progress_bars()
