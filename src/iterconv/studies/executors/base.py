"""Executors bring jobs to their end. What differs between machines is an engine; each engine is a file beside this one.

The folder of all jobs is the only truth: a job is done if its files say so, whatever an engine reports, and everybody
who sees the folder sees who works on what (`iterconv.studies.leases`). So a launcher that was killed is started again
and finds everything, and several launchers share the jobs of one folder.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from iterconv.studies import leases
from iterconv.studies.executors.work import NEVER, describe_failure, stop_file
from iterconv.studies.jobs import Job
from iterconv.training.loop import Stop

AnyJob = TypeVar("AnyJob", bound=Job)

MOST_DEATHS = 2
"""A job is set aside if its processes died so often in a row without any of them getting further than those before."""

LOOK = 1.0
"""Seconds between two looks at jobs on which other launchers work, and at the news of one's own."""


@dataclass(frozen=True)
class Died:
    """A process died while it worked on a job."""

    reason: str
    counts: bool = True
    """False if the job can't be to blame, as when the whole machine was lost."""


@runtime_checkable
class Handle(Protocol):
    """A job in the hands of an engine."""

    def done(self) -> bool:
        """True once the engine is through with the job, in whatever way."""

    def problem(self) -> Exception | Died | None:
        """Say why the job's process did not come to its own end; asked once ``done()`` is true."""


@runtime_checkable
class Engine(Protocol):
    """Starts processes somewhere that call ``work``."""

    @property
    def parallel(self) -> int | None:
        """The number of jobs that are handed over at a time; None if the engine has a queue of its own."""

    def start(self, job: Job, root: Path, launcher: str) -> Handle:
        """Have ``work(job, root, launcher)`` called in a process of its own.

        Raises:
            InputError: If no job can be run at all.
        """

    def ask_to_stop(self) -> None:
        """Give up what waits in the engine's queue. Jobs at work see by themselves that they are to stop."""

    def close(self) -> None:
        """Free what the engine holds; nothing is at work any more, except for jobs that outlive the launcher."""


def ignore(*news: object) -> None:
    """Do nothing; the default of what an executor calls."""


def stop_jobs() -> bool:
    """Have jobs stop together with their launcher; the default answer to whether they go on without it."""
    return False


@dataclass
class Executor(Generic[AnyJob]):
    """Brings jobs to their end on an engine, several at once."""

    engine: Engine
    fail_fast: bool = False
    """True if one failure stops all other jobs."""
    outlive: Callable[[], bool] = stop_jobs
    """Asked once the launcher is to stop: whether the jobs go on without it, where the engine lets them."""
    states: dict[str, leases.JobState] = field(default_factory=dict)
    """The last known states of the jobs in the engine's hands, by name; empty before and after ``run``."""

    def run(
        self,
        jobs: Sequence[AnyJob],
        root: Path,
        *,
        on_progress: Callable[[AnyJob], None] = ignore,
        on_finished: Callable[[AnyJob], None] = ignore,
        on_failed: Callable[[AnyJob, str], None] = ignore,
        stop: Stop = NEVER,
    ) -> dict[str, str]:
        """Bring jobs to their end; what is finished is not repeated, what was begun goes on.

        Args:
            jobs: The jobs, in the order in which they are started.
            root: The folder of all jobs.
            on_progress: Called with a job whenever it got on by a step.
            on_finished: Called with each job that came to its end, also by the work of another launcher.
            on_failed: Called with each job that failed, and the reason.
            stop: Asks all jobs to save their state and to stop.

        Returns:
            Why jobs failed, by their names; one failure does not stop the others.

        Raises:
            InputError: If no job can be run at all.
            KeyboardInterrupt: When asked to stop, once all state is saved.
        """
        launcher = secrets.token_hex(8)
        loop = _Loop(self.engine, launcher, list(jobs), root, on_progress, on_finished, on_failed, self.states)
        file = stop_file(root, launcher)
        try:
            while loop.turn():
                if stop.is_set() or (self.fail_fast and loop.failed):
                    raise KeyboardInterrupt
            return loop.failed
        except BaseException:  # also Ctrl-C, or a callback that failed: the jobs must not go on alone
            if not self.outlive():
                with suppress(OSError):  # a full disk; the jobs then go on to their end
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
                self.engine.ask_to_stop()
                loop.wait()
            if self.fail_fast and loop.failed:
                return loop.failed
            raise
        finally:
            if not loop.at_work():  # else a second Ctrl-C came, and the jobs may not have seen the file yet
                file.unlink(missing_ok=True)
            self.states.clear()
            self.engine.close()


@dataclass
class _Loop(Generic[AnyJob]):
    """The jobs of one launcher: those that wait, those in the engine's hands, and those that others work on."""

    engine: Engine
    launcher: str
    jobs: list[AnyJob]
    root: Path
    on_progress: Callable[[AnyJob], None]
    on_finished: Callable[[AnyJob], None]
    on_failed: Callable[[AnyJob, str], None]
    states: dict[str, leases.JobState]
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = deque(self.jobs)
        self._handed: dict[str, tuple[AnyJob, Handle]] = {}
        self._elsewhere: list[AnyJob] = []
        self._steps: dict[str, tuple[float, int]] = {}
        self._looked = 0.0
        self._pause = 0.01

    def turn(self) -> bool:
        """Hand over, settle and look once; returns False once nothing is left to do."""
        self._hand_over()
        done = [entry for entry in self._handed.values() if entry[1].done()]
        for job, handle in done:
            self._report(job)
            del self._handed[job.name], self.states[job.name]
            self._settle(job, handle.problem())
        if time.monotonic() > self._looked + LOOK:
            self._looked = time.monotonic()
            for job, _ in self._handed.values():
                self._report(job)
            self._look_elsewhere()
        if not (self._waiting or self._handed or self._elsewhere):
            return False
        # Tiny jobs are over at once, long ones need no attention.
        self._pause = 0.005 if done else min(2 * self._pause, 0.2)
        time.sleep(self._pause)
        return True

    def wait(self) -> None:
        """Wait until the engine is through with all jobs."""
        while self.at_work():
            time.sleep(0.05)

    def at_work(self) -> bool:
        """True if the engine is not through with a job yet."""
        return any(not handle.done() for _, handle in self._handed.values())

    def _hand_over(self) -> None:
        most = self.engine.parallel
        while self._waiting and (most is None or len(self._handed) < most):
            job = self._waiting.popleft()
            if job.finished(self.root):
                self.on_finished(job)
            elif (state := leases.read_state(self.root, job.name)).deaths >= MOST_DEATHS:
                self._fail(job, self._set_aside(job, state))
            elif leases.is_held(self.root, job.name):
                self._elsewhere.append(job)
            else:
                self._steps[job.name] = (state.started, state.step)  # of an earlier process
                self._handed[job.name] = (job, self.engine.start(job, self.root, self.launcher))

    def _settle(self, job: AnyJob, problem: Exception | Died | None) -> None:
        """Find out what came of a job that the engine is through with."""
        state = leases.read_state(self.root, job.name)
        if job.finished(self.root):
            self.on_finished(job)
        elif isinstance(problem, Exception):
            self._fail(job, describe_failure(problem))
        elif problem is None and state.state == "failed":
            self._fail(job, state.reason)
        elif isinstance(problem, Died) and problem.counts:
            leases.write_state(self.root, job.name, state.after_death(problem.reason))
            self._waiting.appendleft(job)  # which sets it aside if that was once too often
        else:  # stopped from outside, moved, or in the hands of another process; it is looked at again soon
            self._elsewhere.append(job)

    def _fail(self, job: AnyJob, reason: str) -> None:
        self.failed[job.name] = reason
        self.on_failed(job, reason)

    def _set_aside(self, job: AnyJob, state: leases.JobState) -> str:
        leases.write_state(self.root, job.name, replace(state, state="set aside"))
        path = leases.folder_of(self.root, job.name)
        return f"set aside, as {state.deaths} processes died of it ({state.reason}); delete {path} to try it again"

    def _report(self, job: AnyJob) -> None:
        """Tell of the steps that a job has done since the last look."""
        state = self.states[job.name] = leases.read_state(self.root, job.name)
        started, known = self._steps[job.name]
        known = known if started == state.started else 0
        for _ in range(state.step - known):
            self.on_progress(job)
        self._steps[job.name] = (state.started, state.step)

    def _look_elsewhere(self) -> None:
        """Take up the jobs that other launchers have finished or left."""
        free = [job for job in self._elsewhere if job.finished(self.root) or not leases.is_held(self.root, job.name)]
        self._elsewhere = [job for job in self._elsewhere if job not in free]
        self._waiting.extend(free)
