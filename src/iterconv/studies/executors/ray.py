"""A Ray cluster: each job is a task, for which Ray finds a node."""

import socket
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from iterconv.errors import OptionError, line_of, require
from iterconv.studies import leases
from iterconv.studies.executors.base import Died
from iterconv.studies.executors.work import work
from iterconv.studies.jobs import Job


class RayEngine:
    """Hands jobs to a Ray cluster that is already up.

    Args:
        address: The address of the cluster, as HOST:PORT; "auto" finds the one that this machine belongs to.
        cpus: The processors that each job reserves.
        gpus: The GPUs that each job reserves; a fraction lets jobs share one.
        memory: The bytes of memory that each job reserves; None reserves none.
        max_parallel: The largest number of jobs at once; None leaves it to Ray.

    Raises:
        InputError: If Ray is not installed, or no cluster answers at the address.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        cpus: float = 1,
        gpus: float = 0,
        memory: int | None = None,
        max_parallel: int | None = None,
    ) -> None:
        self.parallel = max_parallel
        self._ray = require("ray", "--on ray", "ray")
        try:
            _knock(address)
            self._ray.init(address, log_to_driver=False, logging_level="error")
        except (OSError, RuntimeError, ValueError) as problem:  # another version of Ray or Python, say, or no token
            raise OptionError(
                "address",
                address,
                f"has no Ray cluster for us ({line_of(problem)}); start it or set its token as docs/clusters.md says",
            ) from None
        # A task that Ray itself repeats would not be counted, and a run that kills its worker would go on doing so.
        options = {"num_cpus": cpus, "num_gpus": gpus, "memory": memory, "max_retries": 0}
        self._work = self._ray.remote(**options)(work)
        self._handles: list[RayHandle] = []

    def start(self, job: Job, root: Path, launcher: str) -> "RayHandle":
        """Hand a job to the cluster."""
        task = self._work.options(name=job.name).remote(job, root.resolve(), launcher)
        handle = RayHandle(self._ray.exceptions, task, task.future(), lambda: leases.is_held(root, job.name))
        self._handles.append(handle)
        return handle

    def ask_to_stop(self) -> None:
        """Give up the tasks that wait for a node; Ray would interrupt those at work in the middle of a step."""
        for handle in self._handles:
            if not handle.done() and not handle.at_work():
                self._ray.cancel(handle.task)

    def close(self) -> None:
        """Leave the cluster, which ends all that is still queued or at work for this process."""
        self._ray.shutdown()


def _knock(address: str) -> None:
    """Raise an ``OSError`` or ``ValueError`` unless something listens at an address; Ray tries for four minutes."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()


class RayHandle:
    """A job in the hands of Ray.

    Args:
        exceptions: Ray's module of that name.
        task: Ray's reference to the task.
        future: The outcome of the task.
        at_work: A function that tells whether a process works on the job.
    """

    def __init__(self, exceptions: Any, task: Any, future: "Future[Any]", at_work: Callable[[], bool]) -> None:
        self._exceptions, self.task, self._future, self.at_work = exceptions, task, future, at_work

    def done(self) -> bool:
        """True once the task has ended, in whatever way."""
        return self._future.done()

    def problem(self) -> Exception | Died | None:
        """Say why a task ended without having done its job; a lost node is not the job's fault."""
        problem = self._future.exception()
        known = self._exceptions
        if isinstance(problem, known.TaskCancelledError):
            return None
        if isinstance(problem, (known.NodeDiedError, known.LocalRayletDiedError)):
            return Died("its node was lost", counts=False)
        if isinstance(problem, known.OutOfMemoryError):
            return Died("Ray killed its worker, as the node ran out of memory")
        if isinstance(problem, known.WorkerCrashedError):
            return Died("its worker died")
        assert problem is None or isinstance(problem, Exception)
        return problem
