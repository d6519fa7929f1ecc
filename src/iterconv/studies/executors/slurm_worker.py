"""The process that SLURM has for a job. It imports nothing heavy before it can handle SLURM's signals."""

import os
import pickle
import signal
import subprocess
from typing import Any


class Signals:
    """Signals of SLURM, as a wish to stop: the time is up, the place is needed, or somebody cancelled the job."""

    def __init__(self) -> None:
        self.last = 0
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.last = number

    def is_set(self) -> bool:
        """Tell whether to stop."""
        return self.last != 0


def work_in_slurm(task: bytes) -> None:
    """Do one job; if its time is up or its place is needed, have it queued again once its state is saved.

    Args:
        task: The pickled ``partial(work, job, root, launcher)``. Torch, which takes seconds to import, is imported
            when it is unpickled, so that a signal does not end the process meanwhile.

    Raises:
        SystemExit: If the job is not done, so that nobody takes it for done.
    """
    signals = Signals()
    work = pickle.loads(task)
    work(signals)
    job, root, _ = work.args
    # Launchers send SIGINT, and want the job to end for good.
    if signals.last in (0, signal.SIGINT) or job.finished(root):
        return
    # A job that was cancelled gets the same signal as one whose place is needed, but it must not come back.
    mine = os.environ["SLURM_JOB_ID"]
    state = subprocess.run(["squeue", "-h", "-j", mine, "-o", "%T"], capture_output=True, text=True, check=False)
    if state.stdout.strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", mine], check=True)
    raise SystemExit(1)
