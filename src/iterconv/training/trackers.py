"""The logs of a run in TensorBoard, MLflow or Weights & Biases: options, epochs, and what was measured at the end.

They lie in the folder ``logs`` of the run, unless the environment names a server. How far each has been told is noted
there too, so that a run that goes on continues its log, and whatever a log lacks is added later.
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import pandas as pd

from iterconv.errors import InputError, check_choice, line_of, require
from iterconv.files import read_json
from iterconv.measuring.report import Report
from iterconv.options import Tracker
from iterconv.training.folder import HISTORY, LOGS, RunFolder

_PROJECT = "iterconv"
_NOTES = "told.json"


class _Writer(Protocol):
    """One tracker's log of one run. It is made with the folder of logs, the run, and the identity if it had one."""

    identity: str
    """What the tracker knows the run by."""

    def write(self, values: dict[str, float], epoch: int) -> None:
        """Add numbers that belong to an epoch."""

    def conclude(self, values: dict[str, float], epoch: int) -> None:
        """Add numbers that belong to the whole run."""

    def close(self, complete: bool) -> None:
        """Write what is left; more may follow in another session unless the log is complete."""


class _TensorBoard:
    """TensorBoard's files, in logs/tensorboard."""

    identity = ""

    def __init__(self, logs: Path, folder: RunFolder, identity: str) -> None:
        loggers = require("lightning_fabric.loggers", "logging to TensorBoard")
        self._options = folder.config.to_dict()
        self._logger = loggers.TensorBoardLogger(logs, name="tensorboard", version="", default_hp_metric=False)

    def write(self, values: dict[str, float], epoch: int) -> None:
        self._logger.log_metrics(values, epoch)

    def conclude(self, values: dict[str, float], epoch: int) -> None:
        self._logger.log_hyperparams(self._options, values, epoch)  # which TensorBoard shows beside numbers only

    def close(self, complete: bool) -> None:
        self._logger.finalize("success" if complete else "aborted")


class _MLflow:
    """A run on the server that ``MLFLOW_TRACKING_URI`` names, or in the SQLite file logs/mlflow.db."""

    def __init__(self, logs: Path, folder: RunFolder, identity: str) -> None:
        self._entities = require("mlflow.entities", "logging to MLflow", "track")
        # A server that is away would else be tried for four minutes at each epoch, with training at a halt meanwhile.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        here = None if os.environ.get("MLFLOW_TRACKING_URI") else f"sqlite:///{logs.absolute().as_posix()}/mlflow.db"
        self._client = require("mlflow", "logging to MLflow", "track").MlflowClient(here)
        if identity:
            self._client.update_run(identity, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(name)
            place = (logs / "artifacts").absolute().as_uri() if here else None
            experiment = found.experiment_id if found else self._client.create_experiment(name, place)
            identity = self._client.create_run(experiment, run_name=folder.config.name).info.run_id
            options = [self._entities.Param(key, str(value)) for key, value in folder.config.to_dict().items()]
            self._client.log_batch(identity, params=options)
        self.identity = identity

    def write(self, values: dict[str, float], epoch: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self.identity, metrics=metrics)

    conclude = write

    def close(self, complete: bool) -> None:
        self._client.set_terminated(self.identity, "FINISHED" if complete else "KILLED")


class _WandB:
    """A run at Weights & Biases; with ``WANDB_MODE=offline``, in logs/wandb."""

    def __init__(self, logs: Path, folder: RunFolder, identity: str) -> None:
        wandb = require("wandb", "logging to Weights & Biases", "track")
        self.identity = identity or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=folder.config.name,
            id=self.identity,
            resume="allow",
            dir=logs,
            config=folder.config.to_dict(),
            settings=wandb.Settings(console="off"),  # else it would catch what this program prints
        )

    def write(self, values: dict[str, float], epoch: int) -> None:
        self._run.log(values, step=epoch)

    def conclude(self, values: dict[str, float], epoch: int) -> None:
        self._run.summary.update(values)

    def close(self, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


_WRITERS: dict[str, Any] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed.

    Args:
        names: Words of ``options.Tracker``.

    Raises:
        InputError: If a name is unknown or its library is not there.
    """
    for name in names:
        check_choice("log", name, get_args(Tracker))
        require(name, f"--log {name}", "track")


@dataclass
class _Told:
    """What a tracker has been told of the run."""

    identity: str = ""
    epochs: int = 0
    complete: bool = False


class RunLog:
    """The logs of one run, which are brought up to what its folder holds.

    A tracker that fails, as for want of its server, does not end the training: it is told everything later.

    Args:
        names: Words of ``options.Tracker``.
        folder: The run's folder, claimed by this process.
    """

    def __init__(self, names: Sequence[str], folder: RunFolder) -> None:
        self._folder, self._logs = folder, folder.path / LOGS
        self._told: dict[str, _Told] = {}
        self._writers: dict[str, _Writer] = {}
        self._problems: dict[str, Exception] = {}
        if names and (self._logs / _NOTES).exists():
            self._read_notes()
        for name in dict.fromkeys(names):
            told = self._told.setdefault(name, _Told())
            if not told.complete:
                self._open(name, told)

    def _read_notes(self) -> None:
        path, again = self._logs / _NOTES, f"delete {self._logs} to begin new logs"
        try:
            self._told = {name: _Told(**about) for name, about in read_json(path, again).items()}
            if any(type(told.epochs) is not int or told.epochs < 0 for told in self._told.values()):
                raise TypeError
        except (InputError, TypeError, AttributeError):
            raise InputError(f"{path} is damaged; {again}") from None

    def _open(self, name: str, told: _Told) -> None:
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise InputError(f"{self._logs} is a file where the logs' folder should be; move it away") from None
        try:
            self._writers[name] = _WRITERS[name](self._logs, self._folder, told.identity)
        except Exception as problem:  # of the library's own kinds
            self.close()
            raise _failure(name, problem, self._remedy(name)) from None
        told.identity = self._writers[name].identity
        self._note()

    def _remedy(self, name: str) -> str:
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if name == "mlflow" and server:
            return f"let the server {server} of MLFLOW_TRACKING_URI answer, or unset that variable to log to a file"
        return f"leave it out, or delete {self._logs} to begin new logs"

    def update(self) -> None:
        """Tell of the epochs that are in the history and that a tracker does not know yet."""
        if not self._writers:
            return
        rows = pd.read_csv(self._folder.path / HISTORY).drop(columns="epoch").to_dict("records")
        for name in self._writers:
            self._problems.pop(name, None)
            try:
                for row in rows[self._told[name].epochs :]:
                    self._tell(name, row)
            except Exception as problem:  # of the library's own kinds
                self._problems[name] = problem

    def _tell(self, name: str, row: dict[str, float]) -> None:
        told = self._told[name]
        told.epochs += 1
        self._note()  # first: whoever is killed now had better miss an epoch than tell it twice
        try:
            self._writers[name].write(row, told.epochs)
        except Exception:
            told.epochs -= 1
            self._note()
            raise

    def conclude(self) -> None:
        """Tell what was measured at the end, and raise ``InputError`` if a tracker could not be told everything."""
        self.update()
        for name in self._writers.keys() - self._problems:
            told = self._told[name]
            try:
                self._writers[name].conclude(_measured(self._folder), told.epochs)
                told.complete = True
                self._note()
            except Exception as problem:  # of the library's own kinds
                self._problems[name] = problem
        for name, reason in self._problems.items():
            raise _failure(name, reason, "the run is finished, and the same command tells what is missing") from None

    def _note(self) -> None:
        self._folder.write_json(f"{LOGS}/{_NOTES}", {name: asdict(told) for name, told in self._told.items()})

    def close(self) -> None:
        """Let go of the trackers."""
        for name, writer in self._writers.items():
            with suppress(Exception):  # what ended the session is to be told, and not that a server is gone as well
                writer.close(self._told[name].complete)


@contextmanager
def opened(names: Sequence[str], folder: RunFolder) -> Iterator[RunLog]:
    """Open the logs of a run, and close them after the context.

    Args:
        names: Words of ``options.Tracker``.
        folder: The run's folder, claimed by this process.

    Yields:
        The logs.

    Raises:
        InputError: If a log can't be opened.
    """
    log = RunLog(names, folder)
    try:
        yield log
    finally:
        log.close()


def _failure(name: str, problem: Exception, remedy: str) -> InputError:
    return InputError(f"--log {name} failed ({type(problem).__name__}: {line_of(problem)}); {remedy}")


def _measured(folder: RunFolder) -> dict[str, float]:
    """Return what was measured on the test split: errors, and the indices that are defined."""
    result = folder.result()
    values = {name: result[name] for name in ("test_error", "test_loss", "test_exact_error")}
    for row in Report.load(folder.path / "report.parquet").indices.itertuples():
        stage = row.stage if row.stage == "mean" else f"stage_{row.stage + 1}"
        values[f"{row.index}/{stage}"] = row.value if row.defined else None
    return {name: float(value) for name, value in values.items() if value is not None}
