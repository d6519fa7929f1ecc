"""The cores of this machine, one job and one thread on each."""

import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from iterconv.data.workers import Parent, signals_held
from iterconv.errors import check_count
from iterconv.studies.executors.base import Died
from iterconv.studies.executors.work import work
from iterconv.studies.jobs import Job

_context = get_context("spawn")


class HereEngine:
    """Runs jobs side by side in processes of this machine.

    Each process has a pool of its own, so that the death of a process tells which job it worked on and leaves the
    others alone.

    Args:
        workers: The number of processes, at least 1; each uses one thread.
    """

    def __init__(self, workers: int = 1) -> None:
        self.parallel = check_count("workers", workers, why="is too few")
        self._free: list[ProcessPoolExecutor] = []
        self._started = 0

    def start(self, job: Job, root: Path, launcher: str) -> "HereHandle":
        """Hand a job to a process that is free."""
        with signals_held("SIGINT", "SIGHUP"):  # a process starts when it gets its first job
            pool = self._free.pop() if self._free else ProcessPoolExecutor(1, _context, _start_worker)
            return HereHandle(self._free, pool, pool.submit(_work, job, root, launcher))

    def ask_to_stop(self) -> None:
        """Do nothing: nothing waits."""

    def close(self) -> None:
        """End the processes."""
        for pool in self._free:
            pool.shutdown()
        self._free.clear()


class HereHandle:
    """A job in a process of this machine.

    Args:
        free: The list to which the process goes back once the job is done.
        pool: The process.
        future: The outcome of the job.
    """

    def __init__(self, free: list[ProcessPoolExecutor], pool: ProcessPoolExecutor, future: "Future[None]") -> None:
        self._free, self._pool, self._future = free, pool, future
        self._given_back = False

    def done(self) -> bool:
        """True once the job is done or its process has died."""
        if self._future.done() and not self._given_back:
            self._given_back = True
            if not isinstance(self._future.exception(), BrokenProcessPool):
                self._free.append(self._pool)
        return self._given_back

    def problem(self) -> Exception | Died | None:
        """Say why the job did not come to its own end."""
        problem = self._future.exception()
        if isinstance(problem, BrokenProcessPool):
            return Died("killed, perhaps for lack of memory: use fewer --workers or free memory")
        return problem if isinstance(problem, Exception) else None


_parent: Parent
"""The parent of this worker process; a pool gives its tasks no other way to what its processes started with."""


def _start_worker() -> None:
    global _parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it can't be held back
    torch.set_num_threads(1)
    _parent = Parent()


def _work(job: Job, root: Path, launcher: str) -> None:
    with _parent.busy:
        work(job, root, launcher, _parent)
