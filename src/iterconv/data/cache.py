"""Decoded images on disk: a sweep of many runs decodes each data set once."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iterconv.errors import InputError, require

_VERSION = 3


def cache_folder() -> Path:
    """``$ITERCONV_CACHE``, or ``~/.cache/iterconv``; its files can be deleted at any time.

    A user without a home, as in containers, has none: nothing can be written below the null device.
    """
    try:
        return Path(os.environ.get("ITERCONV_CACHE") or Path.home() / ".cache" / "iterconv")
    except RuntimeError:
        return Path(os.devnull)


def cached(key: Any, decode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``decode`` makes, from the cache where they are.

    Args:
        key: Whatever the tensors depend on; goes through JSON.
        decode: Makes the tensors.

    Returns:
        Tensors by name. A damaged cache file is made anew; a folder that can't be written is not used.
    """
    require("safetensors", "the cache of decoded images")  # before they are decoded
    name = hashlib.sha256(json.dumps([_VERSION, key]).encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}.safetensors"
    try:
        return read_tensors(path)
    except InputError:
        tensors = decode()
    try:
        write_tensors(path, tensors)
    except OSError:
        pass
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor], **metadata: str) -> None:
    """Write tensors with their checksum, whole or not at all.

    Args:
        path: The file, by custom ending in .safetensors.
        tensors: By name.
        metadata: What the file says of them.
    """
    save = require("safetensors.torch", "writing tensors").save
    from iterconv.reports import write_atomically  # late, because it brings pandas

    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata={**metadata, "sha256": _checksum(tensors)}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what ``write_tensors`` wrote.

    Args:
        path: The file.

    Returns:
        Tensors by name.

    Raises:
        InputError: If the file is missing, damaged, or not what was written.
    """
    safetensors = require("safetensors", "reading tensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, safetensors.SafetensorError) as problem:
        raise InputError(f"can't read {path} ({problem}); make it again") from None
    if expected != _checksum(tensors):
        raise InputError(f"{path} is damaged: its checksum is not that of its contents; make it again")
    return tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)  # numpy knows no bfloat16
    return digest.hexdigest()


def stamp(source: Path) -> list[Any]:
    """What changes when a file, or any file in a folder, changes: names, sizes, times."""
    files = sorted(file for file in [source, *source.rglob("*")] if file.is_file())
    return [str(source.resolve()), [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]]
