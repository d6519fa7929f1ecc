"""Leases: of all processes that see a folder, also on other machines, one at a time works on a job.

A lease is the file ``.jobs/NAME/N.lease`` in the folder of all jobs. Whoever creates number N works on the job, and
touches the file every few seconds. A lease that has not been touched for long is stale: then whoever creates number
N + 1 works on the job from there. Files are created exclusively, so of several processes exactly one succeeds, and
nothing is ever taken away from a process that is alive. A process that finds a later number than its own has been taken
for dead, and stops.

Beside the leases, ``state.json`` says how far the job is, for everybody who wants to watch.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

BEAT = 5.0
"""Seconds between two touches of a lease."""

STALE = 30.0
"""Seconds after which a lease that was not touched is stale. On the machine of a process that died, it is at once."""

STATE = "state.json"
"""The name of the file that holds a job's state."""

State = Literal["running", "lost", "failed", "set aside", "stopped", "finished"]
"""What can be said of a job. Lost is one whose process is gone without a word; only those who watch say so."""


@dataclass(frozen=True)
class JobState:
    """The state of a job, as the process that works on it last wrote it."""

    state: State = "stopped"
    node: str = ""
    """The machine of the process."""
    pid: int = 0
    started: float = 0.0
    """The time in seconds since 1970 at which the process began."""
    updated: float = 0.0
    """The time of the last news."""
    step: int = 0
    """The number of steps that the process has done."""
    before: int = 0
    """The number of steps that earlier processes have done and saved, as far as it is known."""
    steps: int = 0
    """The number of steps of the whole job; 0 if it is unknown."""
    note: str = ""
    """What the job says of its last step."""
    reason: str = ""
    """The reason why the job failed or was set aside."""
    deaths: int = 0
    """The number of processes in a row that died while they worked on the job, and got no further than those before."""
    died_at: int = 0
    """The largest number of steps of the job that were done when a process died."""

    @property
    def seconds_left(self) -> float | None:
        """The time that a job at work still takes if it goes on as it has; None if nothing is known yet."""
        if self.state != "running" or not self.step or not self.steps:
            return None
        return (self.updated - self.started) / self.step * max(self.steps - self.before - self.step, 0)

    def after_death(self, reason: str) -> "JobState":
        """Return the state once the process has died; deaths are counted anew if it had got further than others."""
        done = self.before + self.step
        deaths = 1 if done > self.died_at else self.deaths + 1
        return replace(self, state="stopped", deaths=deaths, died_at=max(done, self.died_at), reason=reason)


def folder_of(root: Path, name: str = "") -> Path:
    """Return the folder of a job's lease and state, or of all of them."""
    return root / ".jobs" / name


def read_state(root: Path, name: str) -> JobState:
    """Read the state of a job; one of which nothing is known, or nothing sound, is as if it had been stopped."""
    try:
        values = json.loads((folder_of(root, name) / STATE).read_text())
        state = JobState(**{field.name: values[field.name] for field in fields(JobState) if field.name in values})
    except (OSError, ValueError, TypeError):  # it may just be written, and nothing but a display depends on it
        return JobState()
    others = [field for field in fields(JobState) if field.name != "state"]
    sound = all(type(getattr(state, field.name)) is field.type for field in others)
    return state if sound and state.state in get_args(State) else JobState()


def write_state(root: Path, name: str, state: JobState) -> None:
    """Write the state of a job whole or not at all; a folder that is full or gone is no reason to stop the job."""
    path = folder_of(root, name) / STATE
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(state)))
        os.replace(temporary, path)


class Lease:
    """The right to work on a job, while ``hold`` lasts.

    Args:
        root: The folder of all jobs.
        name: The name of the job.
        number: The number of the lease.
    """

    def __init__(self, root: Path, name: str, number: int) -> None:
        self._root, self._name, self._number = root, name, number
        self.token = secrets.token_hex(8)
        """The mark of this lease in its file, as a later lease may have the same number."""
        self._over = threading.Event()
        self.lost = False
        """True once another process has taken this one for dead."""

    def beat(self) -> None:
        """Touch the lease until it ends or is lost."""
        while not self._over.wait(BEAT):
            if not self._is_own() or _last_number(self._root, self._name) > self._number:
                self.lost = True
                return
            with suppress(OSError):  # a network folder that is away for a moment
                os.utime(self._path)

    def end(self) -> None:
        """Give the job to others."""
        self._over.set()
        with suppress(OSError):
            if self._is_own():
                self._path.unlink()

    @property
    def _path(self) -> Path:
        return _path(self._root, self._name, self._number)

    def _is_own(self) -> bool:
        """True unless the file is gone or holds another lease of the same number; whoever took over may have ended."""
        try:
            return bool(json.loads(self._path.read_text())["token"] == self.token)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):  # a network folder that is away for a moment
            return True


@contextmanager
def hold(root: Path, name: str) -> Iterator[Lease | None]:
    """Hold the lease of a job inside the context.

    Args:
        root: The folder of all jobs.
        name: The name of the job.

    Yields:
        The lease, or None if another process works on the job.
    """
    lease = _take(root, name)
    if lease is None:
        yield None
        return
    threading.Thread(target=lease.beat, daemon=True).start()
    try:
        yield lease
    finally:
        lease.end()


def is_held(root: Path, name: str) -> bool:
    """True if a process that may be alive works on a job."""
    number = _last_number(root, name)
    return number > 0 and not _is_stale(_path(root, name, number))


def _take(root: Path, name: str) -> Lease | None:
    """Create the next lease, unless the last one is not stale or another process is faster."""
    folder_of(root, name).mkdir(parents=True, exist_ok=True)
    last = _last_number(root, name)
    if last and not _is_stale(_path(root, name, last)):
        return None
    lease = Lease(root, name, last + 1)
    try:
        with _path(root, name, last + 1).open("x") as file:
            json.dump({"machine": _machine(), "pid": os.getpid(), "token": lease.token}, file)
    except FileExistsError:
        return None
    for number in _numbers(root, name):
        if number <= last:
            _path(root, name, number).unlink(missing_ok=True)
    return lease


def _path(root: Path, name: str, number: int) -> Path:
    return folder_of(root, name) / f"{number}.lease"


def _numbers(root: Path, name: str) -> list[int]:
    found = folder_of(root, name).glob("*.lease")
    return [int(path.stem) for path in found if path.stem.isdecimal()]


def _last_number(root: Path, name: str) -> int:
    return max(_numbers(root, name), default=0)


def _is_stale(path: Path) -> bool:
    """True if the owner of a lease is dead: a process of this machine that is gone, or one that does not touch it."""
    try:
        owner = json.loads(path.read_text())
        if owner["machine"] == _machine() and not _is_alive(owner["pid"]):
            return True
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):  # just created, and not written yet
        pass
    # The clocks of machines differ, so the age is measured by the clock of the folder's own machine.
    clock = path.parent / ".clock"
    try:
        clock.touch()
        return clock.stat().st_mtime - path.stat().st_mtime > STALE
    except FileNotFoundError:
        return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _machine() -> str:
    """Name the machine, so that process ids can be compared: containers may share the name of their host."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


class Reporter:
    """Writes the state of a job while a process works on it.

    Args:
        root: The folder of all jobs.
        name: The name of the job.
        steps: The number of steps of the whole job; 0 if it is unknown.
    """

    def __init__(self, root: Path, name: str, steps: int) -> None:
        self._root, self._name = root, name
        for left in folder_of(root, name).glob(f".{STATE}.*"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        now, last = time.time(), read_state(root, name)
        new = JobState("running", socket.gethostname(), os.getpid(), started=now, updated=now, steps=steps)
        self.state = replace(new, deaths=last.deaths, died_at=last.died_at)
        write_state(root, name, self.state)

    def step(self, note: str = "", number: int | None = None) -> None:
        """Note that the job got on by a step.

        Args:
            note: What the job says of it.
            number: The number of the step in the whole job, from 1; None if the job does all of them in one process.
        """
        step = self.state.step + 1
        before = 0 if number is None else number - step
        self.state = replace(self.state, step=step, before=before, note=note, updated=time.time())
        write_state(self._root, self._name, self.state)

    def end(self, state: State, reason: str = "") -> None:
        """Note how the work ended."""
        self.state = replace(self.state, state=state, reason=reason, updated=time.time())
        write_state(self._root, self._name, self.state)
