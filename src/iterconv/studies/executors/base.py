"""Executors run jobs somewhere. Each kind of executor is a file beside this one."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from iterconv.errors import InputError, line_of
from iterconv.studies.jobs import Job
from iterconv.training.loop import Stop

AnyJob = TypeVar("AnyJob", bound=Job)

NEVER: Stop = threading.Event()
"""An event that never asks to stop."""


def ignore(job: Job) -> None:
    """Do nothing; the default of what an executor calls."""


@runtime_checkable
class Executor(Protocol):
    """Brings jobs to their end.

    A job needs nothing but itself (it can be pickled) and the folder, so an executor may also start it on another
    machine that shares the folder, and watch ``job.finished(root)`` from here.
    """

    def run(
        self,
        jobs: Sequence[AnyJob],
        root: Path,
        *,
        on_progress: Callable[[AnyJob], None] = ignore,
        on_finished: Callable[[AnyJob], None] = ignore,
        stop: Stop = NEVER,
    ) -> dict[str, str]:
        """Bring jobs to their end, several at once; what is finished is not repeated, what was begun goes on.

        Args:
            jobs: The jobs, in the order in which they are started.
            root: The folder of all jobs.
            on_progress: Called with a job whenever it got on by a step, as far as the executor learns of it.
            on_finished: Called with each job that came to its end.
            stop: Asks all jobs to save their state and to stop.

        Returns:
            Why jobs failed, by their names; one failure does not stop the others.

        Raises:
            InputError: If no job can be run at all.
            KeyboardInterrupt: When asked to stop, once all state is saved.
        """


def complete_job(job: Job, root: Path, on_progress: Callable[[], None], stop: Stop) -> None:
    """Do what is left of one job, in the process that an executor has for it.

    Args:
        job: The job.
        root: The folder of all jobs.
        on_progress: Called whenever the job got on by a step.
        stop: Asks the job to save its state and to stop.

    Raises:
        InputError: If the job can't be done.
        KeyboardInterrupt: When asked to stop, before or within the job.
    """
    if stop.is_set():
        raise KeyboardInterrupt
    if not job.finished(root):
        job.run(root, on_progress, stop)


def describe_failure(problem: Exception) -> str:
    """Say why a job failed; what is not bad input is cut to one line."""
    return str(problem) if isinstance(problem, InputError) else f"{type(problem).__name__}: {line_of(problem)}"
