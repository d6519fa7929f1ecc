"""What a job costs that has nothing to do, on each engine: time, and memory of the launcher and of its processes.

Run with ``python benchmarks/overhead.py [here | ray | slurm] [jobs] [folder]``, on a cluster with a folder that all of
its machines see. ``python benchmarks/overhead.py finished [runs]`` tells how long it takes to find that runs of a sweep
are finished.
"""

import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.jobs import TrainingRun
from iterconv.studies.sweep import read_sweep
from iterconv.training import config
from iterconv.training.folder import FINISHED


@dataclass(frozen=True)
class Tiny:
    """A job that writes its result at once."""

    name: str

    def finished(self, root: Path) -> bool:
        """True if the result is there."""
        return (root / self.name).exists()

    def run(self, root: Path, on_progress: object, stop: object) -> None:
        """Write the result."""
        (root / self.name).touch()


def megabytes(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def finished(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, file = Path(folder) / "runs", Path(folder) / "sweep.yaml"
        file.write_text(f"{{data: digits, seed: {list(range(count))}}}")
        for run in read_sweep(file):
            (root / run.name).mkdir(parents=True)
            for name in FINISHED:
                (root / run.name / name).touch()
        config._hash.cache_clear()  # a new process remembers no names either
        started = time.perf_counter()
        jobs = [TrainingRun(run) for run in read_sweep(file)]
        read = time.perf_counter()
        assert not [job for job in jobs if not job.finished(root)]
        ended = time.perf_counter()
    print(f"{count} runs: {read - started:.2f} s to read the sweep, {ended - read:.2f} s to find that all are finished")


def main(on: str = "here", count: str = "1000", folder: str | None = None) -> None:
    if on == "finished":
        finished(int(count))
        return
    root = Path(tempfile.mkdtemp(dir=folder))
    jobs = [Tiny(f"job{number}") for number in range(int(count))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    opened = time.perf_counter()
    engine = EngineOptions(on=on).open()  # type: ignore[arg-type]
    started = time.perf_counter()
    first = []
    failed = Executor(engine).run(jobs, root, on_finished=lambda job: first or first.append(time.perf_counter()))
    ended = time.perf_counter()
    assert not failed and all(job.finished(root) for job in jobs)
    again = time.perf_counter()
    Executor(EngineOptions(on="here").open()).run(jobs, root)
    found = time.perf_counter() - again
    rest = (ended - first[0]) / max(len(jobs) - 1, 1)
    print(f"{on}: {len(jobs)} jobs in {ended - started:.1f} s, of which the first took {first[0] - started:.1f} s")
    print(f"{rest * 1e3:.1f} ms a job after the first; {started - opened:.1f} s to open the engine")
    print(f"peak memory: launcher {megabytes(resource.RUSAGE_SELF):.0f} MB", end=", ")
    print(f"largest of its own processes {megabytes(resource.RUSAGE_CHILDREN):.0f} MB")
    print(f"{found * 1e6 / len(jobs):.0f} microseconds a job to find that it is finished")


if __name__ == "__main__":
    import overhead  # so that the jobs' class has a module that other processes can import

    overhead.main(*sys.argv[1:])
