"""Decoded images on disk: a sweep of many runs decodes each data set once."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from iterconv.errors import InputError

_VERSION = 3


def cache_folder() -> Path:
    """``$ITERCONV_CACHE``, or ``~/.cache/iterconv``; its files can be deleted at any time."""
    return Path(os.environ.get("ITERCONV_CACHE") or Path.home() / ".cache" / "iterconv")


def cached(key: Any, decode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``decode`` makes, from the cache where they are.

    Args:
        key: Whatever the tensors depend on; goes through JSON.
        decode: Makes the tensors.

    Returns:
        Tensors by name. A damaged cache file is made anew; a folder that can't be written is not used, nor is any
        where safetensors is missing.
    """
    name = hashlib.sha256(json.dumps([_VERSION, key]).encode()).hexdigest()[:16]
    try:
        path = cache_folder() / f"{name}.safetensors"
    except RuntimeError:  # there is no home, as in some containers
        return decode()
    try:
        return read_tensors(path)
    except InputError:
        tensors = decode()
    try:
        write_tensors(path, tensors)
    except (OSError, InputError):
        pass
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors with their checksum, whole or not at all.

    Args:
        path: The file, by custom ending in .safetensors.
        tensors: By name.

    Raises:
        InputError: If safetensors is missing.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise InputError("writing tensors needs safetensors; install iterconv[repro]") from None
    from iterconv.reports import write_atomically  # late, because it brings pandas

    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata={"sha256": _checksum(tensors)}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what ``write_tensors`` wrote.

    Args:
        path: The file.

    Returns:
        Tensors by name.

    Raises:
        InputError: If the file is missing, damaged, or not what was written.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError("reading tensors needs safetensors; install iterconv[repro]") from None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError) as problem:
        raise InputError(f"can't read {path} ({problem}); make it again") from None
    if expected != _checksum(tensors):
        raise InputError(f"{path} is damaged: its checksum is not that of its contents; make it again")
    return tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


def stamp(source: Path) -> list[Any]:
    """What changes when a file, or any file in a folder, changes: names, sizes, times.

    Raises:
        InputError: If there are pipes or devices among them, whose reading may never end.
        OSError: If a folder can't be read.
    """
    files = files_of(source)
    return [str(source.resolve()), [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]]


def files_of(source: Path) -> list[Path]:
    """A file itself, or all files below a folder, sorted; raises as ``stamp`` does."""

    def refuse(problem: OSError) -> None:
        raise problem

    there = [source]
    if source.is_dir():
        there = [Path(folder, name) for folder, _, names in os.walk(source, onerror=refuse) for name in names]
    odd = next((path for path in there if path.exists() and not path.is_file()), None)
    if odd is not None:
        raise InputError(f"{odd} is neither a file nor a folder but a pipe or a device; leave it out")
    return sorted(path for path in there if path.is_file())
