"""How much faster a grid of 30 runs is on two processes than on one, timed alternately in one run.

Run with ``python benchmarks/grid.py [rounds] [epochs]`` on a machine with two cores that have nothing else to do. Each
round does the grid on one process and on two, the one or the other first, in folders of their own; the start of the
processes and their imports are part of both times.
"""

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.jobs import TrainingRun
from iterconv.training.config import RunConfig


def grid(epochs: int) -> list[TrainingRun]:
    combinations = itertools.product((0.0, 0.5, 1.0), range(10))
    base = {"data": "digits", "width": 8, "blocks": 5, "stages": 1, "epochs": epochs}
    return [TrainingRun(RunConfig(**base, coupling=c, seed=s)) for c, s in combinations]  # type: ignore[arg-type]


def seconds(jobs: list[TrainingRun], workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        failed = Executor(HereEngine(workers)).run(jobs, Path(folder))
        passed = time.perf_counter() - started
        assert not failed and all(job.finished(Path(folder)) for job in jobs), failed
    return passed


def main(rounds: str = "3", epochs: str = "4") -> None:
    jobs, ratios = grid(int(epochs)), []
    for number in range(int(rounds)):
        order = (1, 2) if number % 2 == 0 else (2, 1)
        times = {workers: seconds(jobs, workers) for workers in order}
        ratios.append(times[1] / times[2])
        print(f"{len(jobs)} runs: {times[1]:.1f} s one after another, {times[2]:.1f} s on two, ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} (n = {len(ratios)})")


if __name__ == "__main__":
    main(*sys.argv[1:])
