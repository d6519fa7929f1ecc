"""The cores of this machine, one job and one thread on each."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic

import torch

from iterconv.errors import InputError, check_count
from iterconv.studies.executors.base import NEVER, AnyJob, complete_job, describe_failure, ignore
from iterconv.studies.jobs import Job
from iterconv.training.loop import Stop

RETRIES = 3
"""How often workers that died are replaced before giving up."""

_context = get_context("spawn")


class LocalExecutor:
    """Runs jobs side by side in processes of this machine.

    Args:
        workers: The number of processes, at least 1; each uses one thread.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = check_count("workers", workers, why="is too few")

    def run(
        self,
        jobs: Sequence[AnyJob],
        root: Path,
        *,
        on_progress: Callable[[AnyJob], None] = ignore,
        on_finished: Callable[[AnyJob], None] = ignore,
        stop: Stop = NEVER,
    ) -> dict[str, str]:
        """Bring jobs to their end, as `Executor.run` says.

        Raises:
            InputError: If workers die again and again, as when memory runs out.
            KeyboardInterrupt: When asked to stop, once all state is saved.
        """
        failed: dict[str, str] = {}
        waiting = list(jobs)
        for _ in range(RETRIES + 1):
            waiting = _Round(self.workers, waiting, root, on_progress, on_finished, stop, failed).run()
            if not waiting:
                return failed
        raise InputError(
            f"workers died {RETRIES + 1} times; use fewer --workers or free memory, then run the same command again"
        )


@dataclass
class _Round(Generic[AnyJob]):
    """One pool of workers, until all of its jobs are done or a worker dies, which ends the whole pool."""

    workers: int
    jobs: list[AnyJob]
    root: Path
    on_progress: Callable[[AnyJob], None]
    on_finished: Callable[[AnyJob], None]
    stop: Stop
    failed: dict[str, str]
    undone: list[AnyJob] = field(default_factory=list)

    def run(self) -> list[AnyJob]:
        """Run the jobs; returns those that a dying worker left undone."""
        with _signals_held():  # these start multiprocessing's resource tracker
            events, stop_workers = _context.SimpleQueue(), _context.Event()
        by_name = {job.name: job for job in self.jobs}
        start: dict[str, Any] = {"initializer": _start_worker, "initargs": (events, stop_workers)}
        with ProcessPoolExecutor(self.workers, mp_context=_context, **start) as pool:
            with _signals_held():  # workers start when jobs are submitted
                pending = {pool.submit(_work, job, self.root): job for job in self.jobs}
            try:
                while not self.stop.is_set():
                    if not pending:
                        return self.undone
                    done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                    while not events.empty():
                        self.on_progress(by_name[events.get()])
                    for future in done:
                        self._settle(pending.pop(future), future)
                raise KeyboardInterrupt
            except BaseException:  # also Ctrl-C, or a callback that failed: the workers must not go on alone
                stop_workers.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _settle(self, job: AnyJob, future: Future[None]) -> None:
        problem = future.exception()
        if problem is None:
            self.on_finished(job)
        elif isinstance(problem, BrokenProcessPool):
            self.undone.append(job)
        elif isinstance(problem, Exception):  # too little memory, say: the other jobs may still succeed
            self.failed[job.name] = describe_failure(problem)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and the loss of the terminal, which reach all processes, for good in those that start meanwhile.

    The main process decides what follows from a signal, and must not lose workers to it, not even while they import.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """The state of a worker process: its ways to report and to be stopped, and a lock that it holds while it works."""

    def __init__(self, events: Any, stop: Any) -> None:
        self._events, self._stop = events, stop
        self._parent = os.getppid()
        self._busy = threading.Lock()

    def is_set(self) -> bool:
        """True if the main process asks to stop, or no longer exists."""
        return bool(self._stop.is_set()) or os.getppid() != self._parent

    def work(self, job: Job, root: Path) -> None:
        """Do what is left of one job."""
        with self._busy:
            complete_job(job, root, lambda: self._events.put(job.name), self)

    def leave_with_parent(self) -> None:
        """End this process once its parent is gone (killed, say) and the job at work has saved its state."""
        while os.getppid() == self._parent:
            time.sleep(0.5)
        with self._busy:
            os._exit(1)  # the pool's own loop would wait for work for ever


_worker: _Worker
"""The worker that this process is; a pool gives its tasks no other way to what its processes started with."""


def _start_worker(events: Any, stop: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it can't be held back
    torch.set_num_threads(1)
    _worker = _Worker(events, stop)
    threading.Thread(target=_worker.leave_with_parent, daemon=True).start()


def _work(job: Job, root: Path) -> None:
    _worker.work(job, root)
