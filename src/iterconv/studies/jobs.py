"""Jobs, which executors bring to their end. The studies have two kinds, `TrainingRun` and `studies.toy_runs.ToyRun`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd

from iterconv.indices import INDICES
from iterconv.measuring.report import Report
from iterconv.studies import cost
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.loop import Stop
from iterconv.training.run import complete

CONFIG = tuple(RunConfig().to_dict())
"""The fields of a configuration that are columns of tables."""


OnStep = Callable[..., None]
"""A function that a job calls after each step: alone, with a few words on it, or with these and its number from 1."""


@runtime_checkable
class Job(Protocol):
    """Work that ends in files below a root folder, and that goes on from what it finds there.

    Everything that a job leaves behind is in the folder. So any process that sees the folder can run it, also one on
    another machine, and any other can see that it is finished. A job can be pickled.
    """

    @property
    def name(self) -> str:
        """The job's name, which no other job below the same root has."""

    def finished(self, root: Path) -> bool:
        """True if nothing is left to do below a root folder."""

    def run(self, root: Path, on_progress: OnStep, stop: Stop) -> None:
        """Do what is left to do.

        Args:
            root: The folder of all jobs.
            on_progress: Called whenever the job got on by a step, with a few words on that step if there are any, and
                with its number from 1 if the job may have begun in another process.
            stop: Asks the job to save its state and to stop; the job looks at it now and then.

        Raises:
            InputError: If it can't be done.
            KeyboardInterrupt: When asked to stop, once the state is saved.
        """


@runtime_checkable
class StudyJob(Job, Protocol):
    """A job of the studies: what it costs, and what came of it."""

    @property
    def steps(self) -> int:
        """How often the whole job calls ``on_progress``."""

    @property
    def seconds(self) -> float:
        """The estimated time on one core of the reference machine."""

    @property
    def gpu_seconds(self) -> float:
        """The estimated time alone on a data-centre GPU."""

    def outcome(self, root: Path) -> str:
        """Say in a few words what came of the finished job."""

    def tables(self, root: Path) -> dict[str, pd.DataFrame]:
        """Read the finished job's rows of `studies.tables.Tables`, by the name of the table.

        Raises:
            InputError: If a file is missing or damaged.
        """


@dataclass(frozen=True)
class TrainingRun:
    """A residual network to be trained and measured, in a folder of its own."""

    config: RunConfig

    @cached_property
    def name(self) -> str:
        """The name of the run and of its folder."""
        return self.config.name

    @property
    def steps(self) -> int:
        """The number of epochs."""
        return self.config.resolved().epochs or 1

    @property
    def seconds(self) -> float:
        """The estimated time on one core of the reference machine."""
        return cost.cost(self.config).seconds(cost.CORE)

    @property
    def gpu_seconds(self) -> float:
        """The estimated time alone on a data-centre GPU."""
        return cost.cost(self.config).seconds(cost.GPU)

    def folder(self, root: Path) -> RunFolder:
        """The run's folder below the folder of all runs."""
        return RunFolder(root / self.name, self.config)

    def finished(self, root: Path) -> bool:
        """True if the run is trained and measured."""
        return self.folder(root).finished

    def run(self, root: Path, on_progress: OnStep, stop: Stop) -> None:
        """Train what is missing, and measure; calls ``on_progress`` after each epoch."""

        def on_epoch(row: dict[str, float]) -> None:
            on_progress(self.describe(row), int(row["epoch"]))

        complete(self.config, root / self.name, on_epoch=on_epoch, stop=stop)

    def describe(self, row: dict[str, float]) -> str:
        """Say in a few words how far the run is after an epoch, whose row of the history is given."""
        return f"epoch {row['epoch']} of {self.steps}, error {row['selection_error']:.2%}"

    def outcome(self, root: Path) -> str:
        """Say the test error."""
        return f"test error {self.folder(root).result()['test_error']:.2%}"

    def tables(self, root: Path) -> dict[str, pd.DataFrame]:
        """Read the run's rows of the tables of runs, indices, curves and epochs, labelled with the configuration."""
        folder = self.folder(root)
        report = Report.load(folder.path / "report.parquet")
        means = report.indices[report.indices.stage == "mean"].set_index("index")["value"]
        means = means.reindex(means.index.union(list(INDICES), sort=False))  # older reports may lack an index
        config = self.config.to_dict()
        label = {**{column: config[column] for column in CONFIG}, "name": self.name}
        result = {key: value for key, value in folder.result().items() if key != "history_sha256"}
        row = {**label, **result, **means.to_dict()}
        return {
            # None would make a column of objects where others have numbers.
            "runs": pd.DataFrame([{key: float("nan") if value is None else value for key, value in row.items()}]),
            "indices": report.indices.assign(**label),
            "curves": report.curves.drop(columns=["path", "low", "high"]).assign(**label),
            "history": folder.history().assign(**label),
        }
