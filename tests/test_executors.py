"""Leases, and launchers that share a folder: every job is done once, and nothing that dies takes others along."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from iterconv.studies import leases
from iterconv.studies.executors import base
from iterconv.studies.executors.base import Died, Executor, work
from iterconv.studies.executors.here import HereEngine


@dataclass(frozen=True)
class Line:
    """A job that adds a line to its file, so that the file tells how often it was done."""

    name: str
    seconds: float = 0.0

    def finished(self, root):
        return (root / self.name).exists()

    def run(self, root, on_progress, stop):
        with (root / f"{self.name}.done").open("a") as file:
            file.write(f"{os.getpid()}\n")
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            if stop.is_set():
                raise KeyboardInterrupt
            time.sleep(0.01)
        on_progress("half of it")
        (root / self.name).write_text("done")


@dataclass(frozen=True)
class Deadly(Line):
    """A job that kills the process that works on it."""

    def run(self, root, on_progress, stop):
        with (root / f"{self.name}.done").open("a") as file:
            file.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL)


class InThreads:
    """An engine for tests, which is quicker than processes."""

    def __init__(self, parallel=2):
        self.parallel, self._pool = parallel, ThreadPoolExecutor(parallel)

    def start(self, job, root, launcher):
        future = self._pool.submit(work, job, root, launcher)
        future.problem = future.exception
        return future

    def ask_to_stop(self):
        pass

    def close(self):
        self._pool.shutdown()


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "STALE", 0.5)
    monkeypatch.setattr(base, "LOOK", 0.05)


def times_done(root, name):
    return len((root / f"{name}.done").read_text().splitlines())


def test_a_lease_is_held_by_one_and_free_afterwards(tmp_path):
    with leases.hold(tmp_path, "a") as first, leases.hold(tmp_path, "a") as second, leases.hold(tmp_path, "b") as other:
        assert first and other and second is None and leases.is_held(tmp_path, "a")
    assert not leases.is_held(tmp_path, "a")
    with leases.hold(tmp_path, "a") as again:
        assert again and not again.lost


def test_a_stale_lease_is_taken_over_by_exactly_one_of_many(tmp_path, hurried):
    dead = leases.Lease(tmp_path, "a", 7)
    path = tmp_path / ".jobs" / "a" / "7.lease"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"machine": "another", "pid": 1}))
    assert leases.is_held(tmp_path, "a"), "another machine may still be alive"
    with leases.hold(tmp_path, "a") as early:
        assert early is None
    time.sleep(0.6)
    together, taken, over = threading.Barrier(8), [], threading.Event()

    def take():
        together.wait()
        with leases.hold(tmp_path, "a") as lease:
            taken.append(lease)
            over.wait(5)

    threads = [threading.Thread(target=take) for _ in range(8)]
    [thread.start() for thread in threads]
    while len(taken) < 8:
        time.sleep(0.01)
    dead.beat()  # it was suspended, and wakes up
    over.set()
    [thread.join() for thread in threads]
    assert sum(lease is not None for lease in taken) == 1 and dead.lost


def test_a_dead_process_of_this_machine_is_stale_at_once(tmp_path):
    program = "import sys, os\nfrom pathlib import Path\nfrom iterconv.studies import leases\n"
    program += "held = leases.hold(Path(sys.argv[1]), 'a')\nheld.__enter__()\nos._exit(0)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert list(tmp_path.glob(".jobs/a/1.lease")) and not leases.is_held(tmp_path, "a")


def test_a_job_whose_lease_was_lost_stops(tmp_path, hurried):
    thread = threading.Thread(target=work, args=(Line("a", 60), tmp_path, "me"))
    thread.start()
    while not (tmp_path / "a.done").exists():
        time.sleep(0.01)
    (tmp_path / ".jobs" / "a" / "2.lease").write_text("{}")
    thread.join(10)
    assert not thread.is_alive() and not (tmp_path / "a").exists()
    assert leases.read_state(tmp_path, "a").state == "stopped"


def test_two_launchers_share_the_jobs_of_one_folder(tmp_path, hurried):
    jobs, finished = [Line(f"job{number}", 0.02) for number in range(20)], {0: [], 1: []}

    def launch(number):
        Executor(InThreads()).run(jobs, tmp_path, on_finished=lambda job: finished[number].append(job.name))

    threads = [threading.Thread(target=launch, args=(number,)) for number in finished]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert all(times_done(tmp_path, job.name) == 1 for job in jobs)
    assert all(sorted(names) == sorted(job.name for job in jobs) for names in finished.values())


def test_what_a_job_says_of_its_steps_and_of_its_end_can_be_read(tmp_path):
    work(Line("a"), tmp_path, "me")
    state = leases.read_state(tmp_path, "a")
    assert (state.state, state.step, state.note, state.pid) == ("finished", 1, "half of it", os.getpid())
    assert leases.read_state(tmp_path, "nothing") == leases.JobState()
    timed = leases.JobState(started=100.0, updated=110.0, step=2, steps=6)
    assert timed.seconds_left == 20.0 and leases.JobState(step=2).seconds_left is None


@pytest.mark.medium
def test_a_job_that_kills_its_process_twice_is_set_aside(tmp_path):
    jobs, finished = [Line("a"), Deadly("bad"), Line("b"), Line("c")], []

    def launch():
        run = Executor(HereEngine(2)).run
        return run(jobs, tmp_path, on_finished=lambda job: finished.append(job.name))

    failed = launch()
    assert sorted(finished) == ["a", "b", "c"] and list(failed) == ["bad"]
    assert failed["bad"].startswith("set aside, as 2 processes died of it (killed, perhaps for lack of memory")
    assert times_done(tmp_path, "bad") == 2 and leases.read_state(tmp_path, "bad").state == "set aside"
    assert launch() == failed and times_done(tmp_path, "bad") == 2, "another launcher knows, too"


class Losing(InThreads):
    """An engine that loses each job's machine once."""

    def __init__(self):
        super().__init__(1)
        self.lost = {}

    def start(self, job, root, launcher):
        if self.lost.setdefault(job.name, 0) < 5:
            self.lost[job.name] += 1
            lost = self._pool.submit(int)
            lost.problem = lambda: Died("its node was lost", counts=False)
            return lost
        return super().start(job, root, launcher)


def test_a_lost_machine_is_not_the_jobs_fault(tmp_path, hurried):
    jobs = [Line("a"), Line("b")]
    assert Executor(Losing()).run(jobs, tmp_path) == {} and all(job.finished(tmp_path) for job in jobs)


def test_one_failure_stops_the_others_if_that_is_wanted(tmp_path, hurried):
    jobs = [
        Line("bad.done/x"),
        *(Line(f"job{number}", 60) for number in range(5)),
    ]  # a file in a folder that isn't there
    failed = Executor(InThreads(), fail_fast=True).run(jobs, tmp_path)
    assert list(failed) == ["bad.done/x"] and "FileNotFoundError" in failed["bad.done/x"]
    assert not list(Path(tmp_path).glob("job?"))
    log = (tmp_path / ".jobs" / "bad.done/x" / base.LOG).read_text()
    assert log.startswith("Traceback") and "FileNotFoundError" in log


def test_a_launcher_that_is_asked_to_stop_stops_all_and_leaves_nothing_behind(tmp_path, hurried):
    stop = threading.Event()
    jobs = [Line(f"job{number}", 60) for number in range(5)]
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(KeyboardInterrupt):
        Executor(InThreads()).run(jobs, tmp_path, stop=stop)
    assert not list(tmp_path.glob(".jobs/stop-*")) and not list(tmp_path.glob(".jobs/*/*.lease"))
    assert [leases.read_state(tmp_path, job.name).state for job in jobs[:2]] == ["stopped", "stopped"]
