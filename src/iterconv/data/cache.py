"""Decoded images on disk: a sweep of many runs decodes each data set once."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from iterconv.errors import InputError
from iterconv.reports import write_atomically

_VERSION = 1


def cache_folder() -> Path:
    """``$ITERCONV_CACHE``, or ``~/.cache/iterconv``."""
    return Path(os.environ.get("ITERCONV_CACHE") or Path.home() / ".cache" / "iterconv")


def cached(source: Path, options: Any, decode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The decoded tensors of a file or folder, from the cache where they are and still fit.

    Args:
        source: The file or folder; its files' names, sizes and times are part of the key.
        options: Whatever else the tensors depend on.
        decode: Makes the tensors.

    Returns:
        Tensors by name. A damaged cache file is made anew; a folder that can't be written is not used.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    path = cache_folder() / f"{_key(source, options)}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        tensors = decode()
    try:
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    except OSError:
        pass
    return tensors


def _key(source: Path, options: Any) -> str:
    try:
        files = sorted(p for p in (source.rglob("*") if source.is_dir() else [source]) if p.is_file())
        stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    except OSError as problem:
        raise InputError(f"can't read {source} ({problem.strerror}); check the path and its rights") from None
    text = json.dumps([_VERSION, str(source.resolve()), stamps, options])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
