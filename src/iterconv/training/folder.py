"""The folder of a run: its files, read and written without losing anything.

These are ``config.json``, ``history.csv``, ``checkpoint.pt`` (until the run is finished), ``best.safetensors``,
``report.parquet`` and ``result.json``. A folder that has the last three holds a finished run. ``README.md``, the model
card, is for people, and what is in the folder ``logs`` for other programs; nothing here depends on them.
"""

import hashlib
import io
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from iterconv import files
from iterconv.errors import InputError
from iterconv.training.config import RunConfig

FINISHED = ("result.json", "report.parquet", "best.safetensors")
HISTORY = "history.csv"
LOGS = "logs"
_STARTED = ("config.json", HISTORY, "checkpoint.pt")


class BusyError(InputError):
    """Another process trains in the same folder."""


class RunFolder:
    """The files of one run.

    Args:
        path: The folder, which is made when something is first written.
        config: The run that belongs in it.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = Path(path)
        self.config = config

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """Open the folder of a run by its configuration file.

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
        """True if the run is trained and measured, and nothing of it was deleted since.

        Raises:
            InputError: If the folder may not be looked into.
        """
        try:
            return all((self.path / name).is_file() for name in FINISHED)
        except OSError as problem:
            raise files.unreadable(self.path, problem) from None

    def check(self) -> None:
        """Check the weights and the history of a finished run against their checksums.

        Raises:
            InputError: If one of them is damaged.
        """
        self.history()
        files.read_tensors(self.path / "best.safetensors", again=files.AGAIN)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder for this run and this process; a folder that was made for nothing is removed again.

        Raises:
            InputError: If the folder holds another run, another process trains in it, or it can't be written.
        """
        from filelock import FileLock, Timeout

        # The system drops the lock when the process dies.
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise BusyError(
                f"another process is training in {self.path}; wait for it or choose another --out"
            ) from None
        except OSError as problem:
            raise InputError(f"can't write to {self.path} ({problem.strerror}); choose another --out") from None
        try:
            self._check_owner()
            self._clear_up()
            yield
        finally:
            if made and not (self.path / "config.json").exists():
                with suppress(OSError):
                    (self.path / ".lock").unlink()
                    self.path.rmdir()
            lock.release()

    def _clear_up(self) -> None:
        """Remove the half-written files and the superfluous checkpoint that a killed process may have left."""
        for name in (*_STARTED, *FINISHED):
            for left in self.path.glob(f".{name}.*"):
                left.unlink(missing_ok=True)
        if self.finished:
            self.drop_checkpoint()

    def _check_owner(self) -> None:
        path = self.path / "config.json"
        if not path.exists():
            return
        there, here = (asdict(config.resolved()) for config in (read_config(path), self.config))
        different = [name for name in here if here[name] != there[name]]
        if different:
            name = different[0]
            raise InputError(
                f"{self.path} holds another run ({name} is {there[name]!r} there, {here[name]!r} here); "
                "choose another --out or the same options"
            )

    def give_up(self) -> None:
        """Leave the folder to other runs, unless something is saved that this one could go on from."""
        if not any((self.path / name).exists() for name in ("checkpoint.pt", *FINISHED)):
            for name in _STARTED:
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / LOGS, ignore_errors=True)

    def write_json(self, name: str, contents: dict[str, Any]) -> None:
        """Write a JSON file."""
        self.write(name, files.to_json(contents))

    def write(self, name: str, contents: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            InputError: If the disk is full or the folder can't be written.
        """
        try:
            files.write_atomically(self.path / name, contents)
        except OSError as problem:
            raise InputError(
                f"can't write {self.path / name} ({problem.strerror}); what was saved before is intact, "
                "make room and run the same command again"
            ) from None

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write the state from which the run can go on."""
        buffer = io.BytesIO(_FIRST_LINE)
        buffer.seek(0, io.SEEK_END)
        torch.save({"run": self.config.hash, **state}, buffer)
        self.write("checkpoint.pt", files.seal(buffer.getvalue()))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read the state that ``save_checkpoint`` wrote, if there is one, without executing code from the file.

        Raises:
            InputError: If the file can't be read, is damaged or of another run.
        """
        path = self.path / "checkpoint.pt"
        contents = files.read(path, "run the same command again to start anew")
        if contents is None:
            return None
        archive = contents if contents.startswith(b"PK") else contents[len(_FIRST_LINE) :]
        try:
            with warnings.catch_warnings(action="ignore"):  # torch warns of foreign pickles before it refuses them
                state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
            run = state.pop("run")
        except Exception:  # a foreign file, in which torch stumbles in many ways
            raise damaged_checkpoint(self) from None
        if run != self.config.hash:
            raise InputError(
                f"checkpoint {path} is of another run ({run!r:.20}, not {self.config.hash}); "
                "delete it or choose another --out"
            )
        return dict(state)

    def drop_checkpoint(self) -> None:
        """Free the space of a checkpoint that nothing needs any more."""
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def result(self) -> dict[str, Any]:
        """Read ``result.json``.

        Raises:
            InputError: If the run is not finished or the file damaged.
        """
        path = self.path / "result.json"
        contents = files.read_json(path, f"there is no {path}; the run is not finished, train it first")
        for name in _MEASURED:
            value = contents.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{path} is damaged ({name} is not a number); delete it and {files.AGAIN}")
        return contents

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """Write ``history.csv``, one row an epoch."""
        self.write(HISTORY, pd.DataFrame(rows).to_csv(index=False).encode())

    def history_digest(self) -> str:
        """Compute the SHA-256 of ``history.csv``.

        A CSV file that other programs read has no place for a seal, so ``result.json`` holds its digest.
        """
        return _digest(files.read(self.path / HISTORY))

    def history(self) -> pd.DataFrame:
        """Read the epochs of the finished run, one row each.

        Raises:
            InputError: If the run is not finished, or the file is missing or not what was written.
        """
        path, again = self.path / HISTORY, "delete the run's folder and train it again"
        expected, contents = self.result().get("history_sha256"), files.read(path, again)
        if expected not in (None, _digest(contents)):  # runs of earlier versions have no digest
            raise InputError(f"{path} is missing or damaged (its checksum does not match); {again}")
        try:
            return pd.read_csv(io.BytesIO(contents or b""))
        except ValueError:  # which pandas raises for an empty file too
            raise InputError(f"{path} is missing or damaged; {again}") from None


_FIRST_LINE = f"{files.BLANK}\n".encode()
"""The first line of a checkpoint; the bytes that torch saved follow it."""

_MEASURED = ("test_error", "test_examples", "chance", "raw", "tied", "effective", "mean_deviation")
"""The numbers that every result has to hold."""


def _digest(contents: bytes | None) -> str:
    return hashlib.sha256(contents or b"").hexdigest()


def damaged_checkpoint(folder: RunFolder) -> InputError:
    """Make the error for a checkpoint that makes no sense."""
    return InputError(f"checkpoint {folder.path / 'checkpoint.pt'} is damaged; delete it to start this run anew")


def read_config(path: Path) -> RunConfig:
    """Read a run's configuration.

    Args:
        path: A ``config.json``.

    Returns:
        The run.

    Raises:
        InputError: If the file is missing, can't be read, is damaged or of another version.
    """
    values = files.read_json(path, f"there is no {path}; name the folder of a run")
    try:
        return RunConfig.from_dict(values)
    except InputError as problem:
        raise InputError(f"{path} is not a run's configuration: {problem}") from None
