"""A launcher of twenty runs, each of which notes that it was begun: ``python counted.py FOLDER``."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.jobs import TrainingRun
from iterconv.training.config import RunConfig

RUNS = 20


@dataclass(frozen=True)
class CountedRun(TrainingRun):
    """A run that notes in a file below ``begun`` which process begins it, before it does anything else."""

    def run(self, root, on_progress, stop):
        with (root / "begun" / self.name).open("a") as file:
            file.write(f"{os.getpid()}\n")
        super().run(root, on_progress, stop)


def runs():
    """List the runs."""
    small = {"data": "digits", "width": 2, "blocks": 2, "stages": 1, "epochs": 6, "samples": 200}
    return [CountedRun(RunConfig(**small, seed=seed)) for seed in range(RUNS)]


def main(folder: str) -> None:
    """Bring the runs to their end, and print the names of those whose end this launcher saw."""
    root, seen = Path(folder), []
    (root / "begun").mkdir(parents=True, exist_ok=True)
    failed = Executor(HereEngine(1)).run(runs(), root, on_finished=lambda run: seen.append(run.name))
    assert not failed, failed
    print(*sorted(seen), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
