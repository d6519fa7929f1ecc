"""The folder of a run: what is in it, and how it is read and written without losing anything.

``config.json``, ``history.csv``, ``checkpoint.pt`` (until the run is finished), ``best.safetensors``,
``report.parquet``, ``result.json``; the last three together mean finished. Files appear whole or not at all.
"""

import fcntl
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iterconv.errors import InputError
from iterconv.reports import write_atomically
from iterconv.training.config import RunConfig


class RunFolder:
    """The files of one run.

    Args:
        path: The folder; made when something is first written.
        config: The run that belongs there.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = Path(path)
        self.config = config

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """The run that a folder holds.

        Args:
            path: A folder with a ``config.json``.

        Returns:
            The folder.

        Raises:
            InputError: If there is no readable configuration.
        """
        return cls(path, read_config(path / "config.json"))

    @property
    def finished(self) -> bool:
        """Whether the run is trained and measured, and nothing of it was deleted since."""
        return all((self.path / name).is_file() for name in ("result.json", "report.parquet", "best.safetensors"))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this run and this process.

        Raises:
            InputError: If the folder holds another run, another process trains in it, or it can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_owner()
            lock = open(self.path / ".lock", "w")
        except OSError as problem:
            raise InputError(f"can't write to {self.path} ({problem.strerror}); choose another --out") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it when the process dies
            except OSError:
                raise InputError(
                    f"another process is training in {self.path}; wait for it or choose another --out"
                ) from None
            self._clear_up()
            yield

    def _clear_up(self) -> None:
        """Remove what a process that was killed while writing left behind."""
        for name in (
            "config.json",
            "history.csv",
            "checkpoint.pt",
            "best.safetensors",
            "report.parquet",
            "result.json",
        ):
            for left in self.path.glob(f".{name}.*"):
                left.unlink(missing_ok=True)

    def _check_owner(self) -> None:
        path = self.path / "config.json"
        if not path.exists():
            return
        there, here = read_config(path).to_dict(), self.config.to_dict()
        different = [name for name in here if here[name] != there[name]]
        if different:
            name = different[0]
            raise InputError(
                f"{self.path} holds another run ({name} is {there[name]!r} there, {here[name]!r} here); "
                "choose another --out or the same options"
            )

    def write_json(self, name: str, contents: dict[str, Any]) -> None:
        """Write a JSON file."""
        self.write(name, json.dumps(contents, indent=1).encode())

    def write(self, name: str, contents: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            InputError: If the disk is full or the folder can't be written.
        """
        try:
            write_atomically(self.path / name, contents)
        except OSError as problem:
            raise InputError(
                f"can't write {self.path / name} ({problem.strerror}); what was saved before is intact, "
                "make room and run the same command again"
            ) from None

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write everything that is needed to go on."""
        import torch

        buffer = io.BytesIO()
        torch.save({"run": self.config.hash, **state}, buffer)
        self.write("checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """What ``save_checkpoint`` wrote, or None where there is none; never executes code from the file.

        Raises:
            InputError: If the file is damaged or of another run.
        """
        import torch

        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            run = state.pop("run")
        except (
            OSError,
            RuntimeError,
            EOFError,
            KeyError,
            ValueError,
            AttributeError,
            TypeError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ):
            raise InputError(f"checkpoint {path} is damaged; delete it to start this run anew") from None
        if run != self.config.hash:
            raise InputError(
                f"checkpoint {path} is of another run ({run}, not {self.config.hash}); "
                "delete it or choose another --out"
            )
        return dict(state)

    def drop_checkpoint(self) -> None:
        """Free the space of a checkpoint that nothing needs any more."""
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def result(self) -> dict[str, Any]:
        """The contents of ``result.json``.

        Raises:
            InputError: If the run is not finished or the file damaged.
        """
        path = self.path / "result.json"
        contents = read_json(path, "the run is not finished; train it first")
        if "test_error" not in contents:
            raise InputError(f"{path} is damaged; delete it and run the same command again")
        return contents


def read_config(path: Path) -> RunConfig:
    """Read a run's configuration.

    Args:
        path: A ``config.json``.

    Returns:
        The run.

    Raises:
        InputError: If the file is missing, damaged or of another version.
    """
    values = read_json(path, "name the folder of a run")
    try:
        return RunConfig.from_dict(values)
    except (TypeError, InputError) as problem:
        raise InputError(f"{path} is not a run's configuration: {problem}") from None


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        remedy: What to do when it is missing.

    Returns:
        The object.

    Raises:
        InputError: If the file is missing or damaged.
    """
    try:
        contents = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no {path}; {remedy}") from None
    except (OSError, ValueError):
        raise InputError(f"{path} is damaged; delete it and run the same command again") from None
    if not isinstance(contents, dict):
        raise InputError(f"{path} is damaged; delete it and run the same command again")
    return contents
