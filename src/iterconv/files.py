"""Files that appear whole or not at all, and that are believed only if they are what was written.

A file that is read back carries a seal: the SHA-256 of its bytes, with zeros where the digest stands. Files of earlier
versions have none and are read as they are.
"""

import glob
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterconv.errors import InputError, require

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

LARGEST_JSON = 64 * 2**20
"""The largest number of bytes of a JSON file."""

WRITTEN: dict[Path, None] = {}
"""The files that this process has written, in order, for whoever tells a user what is there."""

ABANDONED = 3600.0
"""Seconds after which a half-written file that nobody touched is taken for that of a process that was killed."""

SEAL = "seal"
"""The name of the seal's place, in files that give it a name."""

AGAIN = "run the same command again"

# Both ends are looked for, so that damage to one of them does not make a file look as if it never had a seal.
_OPEN, _CLOSE = b"iterconv-seal:", b":iterconv-seal"
_SEAL = re.compile(_OPEN + rb"([0-9a-f]{64})" + _CLOSE)
_ZEROS = b"0" * 64
BLANK = (_OPEN + _ZEROS + _CLOSE).decode()
"""The text that ``seal`` replaces."""


def write_atomically(path: Path, contents: bytes) -> None:
    """Write a file so that it appears whole or not at all, also if the machine dies.

    Args:
        path: The file; its folder is made if need be.
        contents: The bytes.

    Raises:
        OSError: If it can't be written; names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            file.write(contents)
            file.flush()
            # Without it, the new name may reach the disk before the bytes do, and a crash leaves an empty file.
            os.fsync(file.fileno())
        _remove_left(path, temporary)
        os.replace(temporary, path)
        WRITTEN[path] = None
    except BaseException as problem:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(problem, OSError):
            # The user knows the file by its own name, not by the temporary one.
            raise OSError(problem.errno, problem.strerror, str(path)) from None
        raise


def _temporary(path: Path) -> Path:
    # A file is only replaced at once by one of the same file system, so the temporary file is in the same folder.
    return path.parent / f".{path.name}.{secrets.token_hex(4)}"


def _remove_left(path: Path, temporary: Path) -> None:
    """Remove what processes that were killed left of the same file; whoever still writes it has touched it lately."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
        with suppress(OSError):
            if temporary.stat().st_mtime - left.stat().st_mtime > ABANDONED:
                left.unlink()


def seal(contents: bytes) -> bytes:
    """Put the digest of a file's contents in the place of ``BLANK``, which they must hold once."""
    start = contents.index(BLANK.encode()) + len(_OPEN)
    digest = hashlib.sha256(contents).hexdigest().encode()
    return contents[:start] + digest + contents[start + len(digest) :]


def read(path: Path, again: str = AGAIN, most: int | None = None) -> bytes | None:
    """Read a file whose seal, if it has one, is right.

    Args:
        path: The file.
        again: The remedy that makes it anew once it is deleted.
        most: The largest number of bytes that makes sense.

    Returns:
        The bytes, or None where there is no such file.

    Raises:
        InputError: If there is something else of that name, it can't be read, is too large or damaged.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # reading a pipe would wait for ever
            raise InputError(f"{path} is not a file; move it away and {again}")
        if most is not None and about.st_size > most:
            raise InputError(f"{path} is larger than {most} bytes and not what was written; delete it and {again}")
        contents = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise unreadable(path, problem) from None
    if not _intact(contents):
        raise InputError(f"{path} is damaged (its checksum does not match); delete it and {again}")
    return contents


def unreadable(path: Path, problem: OSError) -> InputError:
    """Make the error for a file that may be good but can't be read."""
    return InputError(f"can't read {path} ({problem.strerror or problem}); see to its permissions and its disk")


def _intact(contents: bytes) -> bool:
    start = contents.find(_OPEN)
    if start < 0:
        return _CLOSE not in contents
    found = _SEAL.match(contents, start)
    if not found:
        return False
    # Views instead of slices: tables and weights can be large, and a slice would copy them.
    view = memoryview(contents)
    digest = hashlib.sha256(view[: found.start(1)])
    digest.update(_ZEROS)
    digest.update(view[found.end(1) :])
    return digest.hexdigest().encode() == found[1]


def to_json(contents: Mapping[str, Any]) -> bytes:
    """Turn a JSON object into the contents of a file, sealed."""
    return seal(json.dumps({**contents, SEAL: BLANK}, indent=1).encode())


def read_json(path: Path, missing: str, again: str = AGAIN) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        missing: The message if there is none.
        again: The remedy that makes it anew once it is deleted.

    Returns:
        The object without its seal.

    Raises:
        InputError: If the file is missing, can't be read or is damaged.
    """
    contents = read(path, again, LARGEST_JSON)
    if contents is None:
        raise InputError(missing)
    try:
        values = json.loads(contents)
    except (ValueError, RecursionError):  # the latter from thousands of brackets
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged; delete it and {again}")
    values.pop(SEAL, None)
    return values


def to_safetensors(tensors: "Mapping[str, Tensor]", **metadata: str) -> bytes:
    """Turn tensors into the contents of a .safetensors file, sealed.

    Args:
        tensors: The tensors by name.
        metadata: Texts that the file holds beside them.

    Returns:
        The bytes.
    """
    save = require("safetensors.torch", "writing tensors").save
    # safetensors refuses transposed and expanded tensors.
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    contents = save(contiguous, metadata={**metadata, SEAL: BLANK})
    return seal(_in_order(contents) if metadata else contents)


def _in_order(contents: bytes) -> bytes:
    """Put the texts of a .safetensors file in order, which safetensors writes in another one each time."""
    start = 8 + int.from_bytes(contents[:8], "little")
    head = json.loads(contents[8:start])
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + contents[start:]


def to_parquet(table: "DataFrame", purpose: str = "writing tables", **metadata: str) -> bytes:
    """Turn a table into the contents of a .parquet file, sealed.

    Args:
        table: The table; its index is left out.
        purpose: The purpose that needs pyarrow, as the subject of a sentence.
        metadata: Texts that the file holds beside its columns.

    Returns:
        The bytes.
    """
    arrow, parquet = require("pyarrow", purpose), require("pyarrow.parquet", purpose)
    columns = arrow.Table.from_pandas(table, preserve_index=False)
    columns = columns.replace_schema_metadata({**(columns.schema.metadata or {}), **metadata, SEAL: BLANK})
    sink = arrow.BufferOutputStream()
    parquet.write_table(columns, sink)
    return seal(sink.getvalue().to_pybytes())


def read_tensors(path: Path, missing: str | None = None, again: str = "make it again") -> "dict[str, Tensor]":
    """Read a .safetensors file.

    Args:
        path: The file.
        missing: The message if there is none.
        again: The remedy that makes it anew once it is deleted.

    Returns:
        The tensors by name.

    Raises:
        InputError: If the file is missing, can't be read or is damaged.
    """
    problems = (require("safetensors", "reading tensors").SafetensorError, ValueError, KeyError, RuntimeError)
    contents = read(path, again)
    if contents is None:
        raise InputError(missing or f"there is no {path}; {again}")
    try:
        return dict(require("safetensors.torch", "reading tensors").load(contents))
    except problems:
        raise InputError(f"{path} is damaged; delete it and {again}") from None


def require_folder(path: Path, option: str = "--out") -> None:
    """Make a folder, or raise ``InputError`` where that can't be done or nothing can be written there."""
    _probe(path, path, option)


def require_file(path: Path, option: str = "--out") -> None:
    """Make a file's folder, or raise ``InputError`` where no such file can be written; it is left as it is."""
    try:
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder; name a file")
    except OSError:  # a name that is too long, or a folder that can't be entered, as told below
        pass
    _probe(path.parent, path, option)


def _probe(folder: Path, path: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A full disk, or a quota, shows only when something is written; permissions alone don't tell. The file has no
        # name, so that a process that is killed here leaves nothing.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" " * 4096)
            file.flush()
        _temporary(path).exists()  # raises if the name is too long
    except OSError as problem:
        raise InputError(f"can't write to {path} ({problem.strerror}); choose another {option}") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that can't be written, as ``write_atomically`` names a hidden one or none."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"can't write {path} ({problem.strerror}); make room, or name another file") from None
