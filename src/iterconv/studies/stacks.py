"""Stacks of runs as jobs: runs that may be trained side by side as one network are one job."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.studies.jobs import OnStep, StudyJob, TrainingRun
from iterconv.training.config import RunConfig
from iterconv.training.loop import Stop
from iterconv.training.stack import complete_stack

MAY_DIFFER: dict[str, Any] = {
    "seed": 0,
    "coupling": 0.0,
    "kernel": "uniform",
    "first_coupled": 0,
    "init": "independent",
}
"""The fields in which the runs of a stack may differ, with values that stand for any."""

WIDEST = 8
"""The largest width of runs that ``--stack`` puts into stacks: on a processor, wider ones are faster one by one."""


@dataclass(frozen=True)
class StackRun:
    """Runs that are trained side by side as one network, each in a folder of its own."""

    runs: tuple[TrainingRun, ...]

    @cached_property
    def name(self) -> str:
        """The number of runs, the first one's name without its hash, and a hash of all."""
        digest = hashlib.sha256(" ".join(run.name for run in self.runs).encode()).hexdigest()[:8]
        return f"stack-{len(self.runs)}-{self.runs[0].name.rpartition('-')[0]}-{digest}"

    @property
    def steps(self) -> int:
        """The number of epochs of all runs."""
        return sum(run.steps for run in self.runs)

    @property
    def seconds(self) -> float:
        """The estimated time of the runs one after another, which a stack takes at most."""
        return sum(run.seconds for run in self.runs)

    @property
    def gpu_seconds(self) -> float:
        """The estimated time of the runs one after another on a GPU."""
        return sum(run.gpu_seconds for run in self.runs)

    def finished(self, root: Path) -> bool:
        """True if all runs are trained and measured."""
        return all(run.finished(root) for run in self.runs)

    def run(self, root: Path, on_progress: OnStep, stop: Stop) -> None:
        """Train what is missing, and measure; calls ``on_progress`` after each epoch of each run."""
        positions = {run.config.hash: position for position, run in enumerate(self.runs, 1)}

        def on_epoch(config: RunConfig, row: dict[str, float]) -> None:
            position, count = positions[config.hash], len(self.runs)
            note = f"run {position} of {count}, {self.runs[position - 1].describe(row)}"
            on_progress(note, (int(row["epoch"]) - 1) * count + position)

        complete_stack([run.folder(root) for run in self.runs], root / self.name, on_epoch=on_epoch, stop=stop)

    def outcome(self, root: Path) -> str:
        """Say the test error of each run."""
        return "; ".join(f"{run.name}: {run.outcome(root)}" for run in self.runs)

    def tables(self, root: Path) -> dict[str, pd.DataFrame]:
        """Read the rows of all runs."""
        tables = [run.tables(root) for run in self.runs]
        return {name: pd.concat([own[name] for own in tables], ignore_index=True) for name in tables[0]}


def for_stacks(run: RunConfig, size: int) -> RunConfig:
    """Return a run with its option ``stack`` set, where stacks pay and the run does not say otherwise.

    Args:
        run: Any run.
        size: The number of runs of a stack.

    Returns:
        The run for stacks of this size; the same run if it has a size of its own, can't be stacked, or is wider than
        ``WIDEST``.
    """
    pays = run.stackable and run.width <= WIDEST and run.stack == 1
    return replace(run, stack=size) if pays else run


def group(jobs: Sequence[StudyJob]) -> list[StudyJob]:
    """Put runs that can be trained side by side into stacks of the size that their configurations name.

    Args:
        jobs: All jobs, also those that are finished, so that what was begun is grouped in the same way again.

    Returns:
        The jobs, with each stack in the place of its first run. The last stack of a kind may be smaller than the
        others; a single run remains what it was.
    """
    kinds: dict[RunConfig, list[list[TrainingRun]]] = {}
    places: list[StudyJob | list[TrainingRun]] = []
    for job in jobs:
        if not isinstance(job, TrainingRun) or job.config.stack == 1:
            places.append(job)
            continue
        stacks = kinds.setdefault(replace(job.config.resolved(), **MAY_DIFFER), [])
        if not stacks or len(stacks[-1]) == job.config.stack:
            stacks.append([])
            places.append(stacks[-1])
        stacks[-1].append(job)
    return [_as_job(place) if isinstance(place, list) else place for place in places]


def _as_job(runs: list[TrainingRun]) -> StudyJob:
    return StackRun(tuple(runs)) if len(runs) > 1 else runs[0]
