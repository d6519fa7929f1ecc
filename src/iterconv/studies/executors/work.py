"""The work on one job, in the process that an engine has for it, wherever that is."""

import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from iterconv.errors import InputError, describe_error
from iterconv.studies import leases
from iterconv.studies.jobs import Job, StudyJob
from iterconv.training.folder import BusyError
from iterconv.training.loop import Stop

NEVER: Stop = threading.Event()
"""An event that never asks to stop."""

LOG = "failure.log"
"""The name of the file, beside a job's state, that holds the traceback of its failure."""


def stop_file(root: Path, launcher: str) -> Path:
    """Return the file by which a launcher asks all its jobs to stop."""
    return leases.folder_of(root) / f"stop-{launcher}"


@dataclass
class _Asked:
    """A `Stop`: the engine, the launcher or the loss of the lease asks the job to stop."""

    stop: Stop
    lease: leases.Lease
    file: Path
    looked: float = 0.0
    found: bool = False

    def is_set(self) -> bool:
        """Tell whether to stop; the file is looked for now and then only, as this is asked at each training step."""
        if not self.found and time.monotonic() > self.looked + 0.5:
            self.looked, self.found = time.monotonic(), self.file.exists()
        return self.found or self.lease.lost or self.stop.is_set()


def work(job: Job, root: Path, launcher: str, stop: Stop = NEVER) -> None:
    """Do what is left of one job, in the process that an engine has for it, unless another process is at it.

    How it ends stands in the folder: in the job's own files if it is finished, else in its state.

    Args:
        job: The job.
        root: The folder of all jobs.
        launcher: The launcher, which may ask to stop.
        stop: Asks the job to save its state and to stop; for engines that have signals of their own.
    """
    with leases.hold(root, job.name) as lease:
        if lease is None or job.finished(root):
            return
        reporter = leases.Reporter(root, job.name, job.steps if isinstance(job, StudyJob) else 0)
        asked = _Asked(stop, lease, stop_file(root, launcher))
        try:
            if asked.is_set():
                raise KeyboardInterrupt
            job.run(root, reporter.step, asked)
            if job.finished(root):
                reporter.end("finished")
            else:  # a mistake in the job, which would be started again for ever
                reporter.end("failed", "it ended without a result")
        except (KeyboardInterrupt, BusyError):
            reporter.end("stopped")
        except Exception as problem:  # too little memory, say: other jobs may still succeed
            (leases.folder_of(root, job.name) / LOG).write_text(traceback.format_exc())
            reporter.end("failed", describe_failure(problem))


def describe_failure(problem: Exception) -> str:
    """Say why a job failed; what is not bad input is cut to one line."""
    return str(problem) if isinstance(problem, InputError) else describe_error(problem)
