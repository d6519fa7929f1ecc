"""Decoded images on disk: a sweep of many runs decodes each data set once."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from iterconv.errors import InputError
from iterconv.files import read_tensors, to_safetensors, write_atomically

# To be raised when the same source is decoded to other tensors, so that older files are not read.
_VERSION = 4


def cache_folder() -> Path:
    """``$ITERCONV_CACHE``, or ``~/.cache/iterconv``; its files can be deleted at any time.

    A user without a home, as in containers, has none: nothing can be written below the null device.
    """
    try:
        return Path(os.environ.get("ITERCONV_CACHE") or Path.home() / ".cache" / "iterconv")
    except RuntimeError:
        return Path(os.devnull)


def from_cache(key: Any, decode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Read the tensors that ``decode`` makes from the cache, or make them and put them there.

    Args:
        key: Everything that the tensors depend on, as JSON takes it.
        decode: Makes the tensors.

    Returns:
        Tensors by name. A damaged cache file is made anew; a folder that can't be written is not used, nor is any
        where safetensors is missing.
    """
    name = hashlib.sha256(json.dumps([_VERSION, key]).encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}.safetensors"
    try:
        return read_tensors(path)
    except InputError:
        tensors = decode()
    with suppress(OSError, InputError):
        write_atomically(path, to_safetensors(tensors))
    return tensors


def stamp(source: Path) -> list[Any]:
    """List names, sizes and times, which change when a file, or any file in a folder, changes.

    Raises:
        InputError: If there are pipes or devices among them, whose reading may never end.
        OSError: If a folder can't be read.
    """
    files = files_of(source)
    return [str(source.resolve()), [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]]


def files_of(source: Path) -> list[Path]:
    """List a file itself, or all files below a folder, sorted; raises as ``stamp`` does."""

    def refuse(problem: OSError) -> None:
        raise problem

    there = [source]
    if source.is_dir():
        there = [Path(folder, name) for folder, _, names in os.walk(source, onerror=refuse) for name in names]
    odd = next((path for path in there if path.exists() and not path.is_file()), None)
    if odd is not None:
        raise InputError(f"{odd} is neither a file nor a folder but a pipe or a device; leave it out")
    return sorted(path for path in there if path.is_file())
