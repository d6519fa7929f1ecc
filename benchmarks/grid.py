"""A grid of runs on two processes, against the same runs one after another."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ratios import Row, compare

from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.jobs import TrainingRun
from iterconv.training.config import RunConfig


def jobs(epochs: int) -> list[TrainingRun]:
    """Thirty small runs: three strengths of coupling, ten seeds."""
    combinations = itertools.product((0.0, 0.5, 1.0), range(10))
    base = {"data": "digits", "width": 8, "blocks": 5, "stages": 1, "epochs": epochs}
    return [TrainingRun(RunConfig(**base, coupling=c, seed=s)) for c, s in combinations]  # type: ignore[arg-type]


def seconds(runs: list[TrainingRun], workers: int) -> float:
    """Bring the runs to their end in a folder of their own; the processes' start and imports are part of the time."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        failed = Executor(HereEngine(workers)).run(runs, Path(folder))
        passed = time.perf_counter() - started
        assert not failed and all(run.finished(Path(folder)) for run in runs), failed
    return passed


def grid(quick: bool) -> Iterator[Row]:
    """Train and measure a grid."""
    runs = jobs(1 if quick else 10)
    yield compare(
        "grid",
        "at least 1.9",
        lambda: seconds(runs, 2),
        lambda: seconds(runs, 1),
        f"{len(runs)} runs of one thread on two processes against one process, starts and imports included",
        rounds=1 if quick else 2,
        warm_up=False,
    )
