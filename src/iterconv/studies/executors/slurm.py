"""SLURM, through submitit: jobs wait and run in SLURM's queue, also when nobody watches them."""

import pickle
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from iterconv.errors import InputError, OptionError, line_of, require
from iterconv.studies import leases
from iterconv.studies.executors.base import Died
from iterconv.studies.executors.slurm_worker import work_in_slurm
from iterconv.studies.executors.work import work
from iterconv.studies.jobs import Job

POLL = 5.0
"""Seconds between two questions to SLURM, one for all jobs."""

ARRAY = 1000
"""The largest number of jobs in an array; by default SLURM takes 1,001."""

MINUTES = 240
"""The time limit of each job. A job that reaches it saves its state and is queued again."""

WARNING = 120
"""Seconds between the signal that the limit is near, and the limit."""

_ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE"),
    *("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"),
}
_NOT_ITS_FAULT = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"}


class SlurmEngine:
    """Hands jobs to SLURM in arrays; those that another launcher left in the queue are watched, not queued twice.

    Everything else that a site asks for (partition, account, time limit) is read by SLURM's own ``sbatch`` from
    variables such as ``SBATCH_PARTITION``.

    Args:
        cpus: The processors of each job.
        gpus: The GPUs of each job; SLURM gives whole ones.
        memory: The bytes of memory of each job; None leaves it to the site.
        max_parallel: The largest number of jobs at once; None leaves it to SLURM.

    Raises:
        InputError: If submitit or SLURM's commands are missing, SLURM does not answer, or a value does not fit.
    """

    parallel = None  # everything is queued at once, so that it needs no launcher

    def __init__(
        self, *, cpus: float = 1, gpus: float = 0, memory: int | None = None, max_parallel: int | None = None
    ) -> None:
        self._submitit = require("submitit", "--on slurm", "slurm")
        for name, value in (("cpus_per_run", cpus), ("gpus_per_run", gpus)):
            if value != int(value):
                raise OptionError(name, value, "is not a whole number, and SLURM divides none; use a whole number")
        self._limit = max_parallel
        self._options = {
            "name": "iterconv",
            "timeout_min": MINUTES,
            "cpus_per_task": int(cpus),
            **({"gpus_per_node": int(gpus)} if gpus else {}),
            **({"mem_gb": memory / 2**30} if memory else {}),
            "slurm_array_parallelism": max_parallel or ARRAY,
            "slurm_signal_delay_s": WARNING,
            "slurm_stderr_to_stdout": True,
            "slurm_additional_parameters": {"requeue": True},
        }
        self._new: list[SlurmHandle] = []
        self._open: list[SlurmHandle] = []
        self._queued: dict[Path, dict[str, str]] = {}  # what queue.csv said when the first of the new jobs was started
        self._states: dict[str, str] = {}
        self._asked = float("-inf")
        if shutil.which("sbatch") is None:
            raise InputError("--on slurm needs SLURM's commands, and there is no sbatch; run it on a login node")
        self._ask()

    def start(self, job: Job, root: Path, launcher: str) -> "SlurmHandle":
        """Have a job queued together with all others that are started before the next look at one."""
        handle = SlurmHandle(self, job, root.resolve(), launcher)
        if handle.folder not in self._queued:  # once for all jobs that are started together
            self._queued[handle.folder] = _read_queue(handle.folder)
        queued = self._queued[handle.folder].get(job.name, "")
        if self.state(queued) in _ENDED:
            self._new.append(handle)
        else:
            handle.id = queued
        self._open.append(handle)
        return handle

    def look(self) -> None:
        """Queue what is new, and ask SLURM about all jobs now and then."""
        new, self._new = self._new, []
        self._queued.clear()
        before = None
        for start in range(0, len(new), ARRAY):
            before = self._submit(new[start : start + ARRAY], before)
        if new or time.monotonic() > self._asked + POLL:
            self._ask()

    def state(self, identity: str) -> str:
        """Return the state of a job by SLURM's word for it; a job that SLURM has forgotten is COMPLETED."""
        return self._states.get(identity, "COMPLETED")

    def ask_to_stop(self) -> None:
        """Remove from the queue what waits, and ask what runs to save its state and to end."""
        self._new.clear()
        identities = [handle.id for handle in self._open if self.state(handle.id) not in _ENDED]
        for start in range(0, len(identities), ARRAY):
            some = identities[start : start + ARRAY]
            subprocess.run(["scancel", "--quiet", "--state=PENDING", *some], check=False)
            subprocess.run(["scancel", "--quiet", "--state=RUNNING", "--signal=INT", *some], check=False)

    def close(self) -> None:
        """Do nothing: what is queued or runs goes on without this process."""

    def _submit(self, handles: "Sequence[SlurmHandle]", before: str | None) -> str:
        """Queue jobs as one array, which waits for the one before it if only so many may run at once."""
        folder = handles[0].folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            executor = self._submitit.AutoExecutor(folder, cluster="slurm")
            wait = f"afterany:{before}" if before and self._limit else None
            executor.update_parameters(**self._options, slurm_dependency=wait)
            tasks = [pickle.dumps(partial(work, h.job, h.root, h.launcher)) for h in handles]
            with executor.batch():
                jobs = [executor.submit(work_in_slurm, task) for task in tasks]
        except (OSError, RuntimeError, self._submitit.core.utils.FailedSubmissionError) as problem:
            raise InputError(
                f"SLURM did not take the jobs ({line_of(problem)}); set what your site asks for in variables "
                "such as SBATCH_PARTITION and SBATCH_ACCOUNT"
            ) from None
        for handle, job in zip(handles, jobs, strict=True):
            handle.id = job.job_id
            self._states[handle.id] = "PENDING"
        lines = "".join(f"{handle.job.name},{handle.id}\n" for handle in handles)
        with (folder / "queue.csv").open("ab", buffering=0) as queue:  # all at once, so that a kill leaves all or none
            queue.write(lines.encode())
        return str(jobs[0].job_id.partition("_")[0])

    def _ask(self) -> None:
        """Ask for the states of all jobs of this user; a controller that does not answer changes nothing."""
        command = ["squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            self._states = dict(line.strip().split("|", 1) for line in answer.stdout.splitlines())
        elif self._asked < 0:
            raise InputError(f"SLURM does not answer ({answer.stderr.strip():.160}); run `sinfo` to see why")
        self._asked = time.monotonic()


@dataclass(eq=False)
class SlurmHandle:
    """A job in the hands of SLURM."""

    engine: SlurmEngine
    job: Job
    root: Path
    launcher: str
    id: str = ""
    """The number by which SLURM knows the job; empty before it is queued."""

    @property
    def folder(self) -> Path:
        """The folder of submitit's files and of the jobs' logs."""
        return leases.folder_of(self.root, ".slurm")

    def done(self) -> bool:
        """True once the job has left the queue, in whatever way."""
        self.engine.look()
        return self.engine.state(self.id) in _ENDED

    def problem(self) -> Exception | Died | None:
        """Say how SLURM ended a job that did not end by itself."""
        state = self.engine.state(self.id)
        if state == "COMPLETED":
            return None
        return Died(f"SLURM ended it as {state}", counts=state not in _NOT_ITS_FAULT)


def _read_queue(folder: Path) -> dict[str, str]:
    """Read which number each job was last queued by; a line of which a full disk took a part is as if it were not."""
    path = folder / "queue.csv"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [line.rstrip("\n").rpartition(",") for line in lines if line.endswith("\n")]
    return {name: identity for name, comma, identity in found if comma}
