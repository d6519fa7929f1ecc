"""Leases, and launchers that share a folder: every job is done once, and nothing that dies takes others along."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from iterconv.cli import jobs
from iterconv.cli.main import main
from iterconv.errors import InputError
from iterconv.studies import leases
from iterconv.studies.executors import base
from iterconv.studies.executors.base import Died, Executor
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.executors.work import LOG, work
from iterconv.studies.status import job_states
from iterconv.studies.sweep import read_sweep, varied_fields
from iterconv.training.config import RunConfig


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


@dataclass(frozen=True)
class Priced(Line):
    """A line with what a study's job has besides."""

    steps = 1
    gpu_seconds = 1.0

    def outcome(self, root):
        return "came"


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


def test_a_process_that_wakes_after_others_have_begun_and_ended_sees_that_its_lease_is_lost(tmp_path, hurried):
    suspended = leases._take(tmp_path, "a")
    path = tmp_path / ".jobs" / "a" / "1.lease"
    path.unlink()  # another process made number 2, removed this one, and ended
    third = leases._take(tmp_path, "a")  # so that a third one got the same number
    thread = threading.Thread(target=suspended.beat, daemon=True)
    thread.start()
    thread.join(5)
    assert suspended.lost and third and not third.lost
    suspended.end()
    assert path.exists() and leases.is_held(tmp_path, "a"), "it is the other one's"
    third.end()
    assert not path.exists()


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
    timed = leases.JobState("running", started=100.0, updated=110.0, step=2, steps=6)
    assert timed.seconds_left == 20.0 and leases.JobState("running", step=2).seconds_left is None


@pytest.mark.extended
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


@dataclass(frozen=True)
class Halting(Line):
    """A job of six saved steps whose process dies after each of them, and which may get stuck at one of them."""

    stuck_at: int = 7

    def run(self, root, on_progress, stop):
        saved = root / f"{self.name}.steps"
        number = len(saved.read_text()) + 1 if saved.exists() else 1
        with (root / f"{self.name}.done").open("a") as file:
            file.write(f"{number}\n")
        if number < self.stuck_at:
            on_progress(f"step {number} of 6", number)
            saved.write_text("x" * number)
        if number < 6 or number >= self.stuck_at:
            raise SystemExit  # which ``work`` takes no more notice of than a process takes of its death
        (root / self.name).touch()


class Mortal(InThreads):
    """An engine that takes ``SystemExit`` for the death of a process."""

    def start(self, job, root, launcher):
        future = super().start(job, root, launcher)
        future.problem = lambda: Died("killed") if future.exception() else None
        return future


def test_a_job_that_gets_on_between_deaths_is_not_set_aside(tmp_path, hurried):
    assert Executor(Mortal()).run([Halting("a"), Line("b")], tmp_path) == {}
    assert times_done(tmp_path, "a") == 6
    state = leases.read_state(tmp_path, "a")
    assert (state.state, state.deaths, state.died_at, state.before, state.step) == ("finished", 1, 5, 5, 1)


@pytest.mark.parametrize("stuck_at, processes", [(1, 2), (2, 2), (4, 4), (6, 6)])
def test_a_job_that_dies_twice_at_the_same_step_is_set_aside(tmp_path, hurried, stuck_at, processes):
    failed = Executor(Mortal()).run([Halting("a", stuck_at=stuck_at)], tmp_path)
    assert failed["a"].startswith("set aside, as 2 processes died of it (killed)")
    assert times_done(tmp_path, "a") == processes and leases.read_state(tmp_path, "a").died_at == stuck_at - 1


def test_steps_of_earlier_processes_count_in_the_time_that_is_left(tmp_path):
    timed = leases.JobState("running", started=100.0, updated=110.0, step=2, before=3, steps=6)
    assert timed.seconds_left == 5.0, "one of six steps is left, and two took ten seconds"


def test_what_a_killed_process_left_half_written_is_removed_by_the_next(tmp_path):
    left = tmp_path / ".jobs" / "a" / ".state.json.0123abcd"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    work(Line("a"), tmp_path, "me")
    assert [path.name for path in left.parent.iterdir()] == [leases.STATE]


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


@dataclass(frozen=True)
class Empty(Line):
    """A job that comes to its end without a result."""

    def run(self, root, on_progress, stop):
        with (root / f"{self.name}.done").open("a") as file:
            file.write("again\n")


@pytest.mark.parametrize("left", ["", "failed", "finished"])
def test_a_job_without_a_result_is_a_failure_and_not_repeated(tmp_path, hurried, left):
    if left:
        (tmp_path / ".jobs" / "empty").mkdir(parents=True)
        leases.write_state(tmp_path, "empty", leases.JobState(left, reason="of an earlier time"))
    failed = Executor(InThreads()).run([Empty("empty"), Line("a")], tmp_path)
    assert failed == {"empty": "it ended without a result"} and times_done(tmp_path, "empty") == 1
    assert leases.read_state(tmp_path, "empty").state == "failed"


def test_one_failure_stops_the_others_if_that_is_wanted(tmp_path, hurried):
    jobs = [
        Line("bad.done/x"),
        *(Line(f"job{number}", 60) for number in range(5)),
    ]  # a file in a folder that isn't there
    failed = Executor(InThreads(), fail_fast=True).run(jobs, tmp_path)
    assert list(failed) == ["bad.done/x"] and "FileNotFoundError" in failed["bad.done/x"]
    assert not list(Path(tmp_path).glob("job?"))
    log = (tmp_path / ".jobs" / "bad.done/x" / LOG).read_text()
    assert log.startswith("Traceback") and "FileNotFoundError" in log


def test_a_launcher_that_is_asked_to_stop_stops_all_and_leaves_nothing_behind(tmp_path, hurried):
    stop = threading.Event()
    jobs = [Line(f"job{number}", 60) for number in range(5)]
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(KeyboardInterrupt):
        Executor(InThreads()).run(jobs, tmp_path, stop=stop)
    assert not list(tmp_path.glob(".jobs/stop-*")) and not list(tmp_path.glob(".jobs/*/*.lease"))
    assert [leases.read_state(tmp_path, job.name).state for job in jobs[:2]] == ["stopped", "stopped"]


def test_a_second_interruption_does_not_take_back_the_first(tmp_path, hurried, monkeypatch):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()

    def interrupt(loop):
        raise KeyboardInterrupt

    monkeypatch.setattr(base._Loop, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Executor(InThreads()).run([Line("a", 3), Line("b", 3)], tmp_path, stop=stop)
    assert [leases.read_state(tmp_path, name).state for name in "ab"] == ["stopped", "stopped"]


def test_jobs_may_outlive_their_launcher_where_the_engine_lets_them(tmp_path, hurried):
    stop, asked = threading.Event(), []
    engine = InThreads()
    threading.Timer(0.3, stop.set).start()

    def outlive():
        asked.append(len(executor.states))
        return True

    executor = Executor(engine, outlive=outlive)
    with pytest.raises(KeyboardInterrupt):
        executor.run([Line("job", 1), Line("other", 1)], tmp_path, stop=stop)
    assert asked == [2] and executor.states == {}, "asked once, while both were at work"
    assert (tmp_path / "job").exists() and (tmp_path / "other").exists()
    assert leases.read_state(tmp_path, "job").state == "finished"


def test_whoever_interrupts_is_asked_only_where_jobs_can_go_on(monkeypatch):
    hidden, answers = [], []
    monkeypatch.setattr(jobs.Confirm, "ask", lambda *_, **__: answers.append(1) or True)
    assert not jobs._ask_to_detach(lambda: hidden.append(1)) and not hidden, "no terminal, nobody to answer"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(jobs, "console", SimpleNamespace(is_terminal=True))
    assert jobs._ask_to_detach(lambda: hidden.append(1)) and hidden == [1] == answers


@pytest.mark.extended
def test_a_failure_is_told_when_it_happens_with_its_log(tmp_path, hurried, capsys):
    bad = Priced("bad.done/x")  # a file in a folder that isn't there
    good = Priced("good", 0.3)
    options = EngineOptions(workers=2)
    assert not jobs.run_jobs([bad, good], tmp_path, options, threading.Event())
    first, second, last = capsys.readouterr().out.splitlines()
    assert (
        first.startswith("1/2 bad.done/x: failed: FileNotFoundError") and f"(see {tmp_path}/.jobs/bad.done/x" in first
    )
    assert second.startswith("2/2 good: came, ") and last == "1 of 2 runs failed, for the reasons above"


def test_the_live_table_shows_what_is_at_work():
    executor = Executor(InThreads())
    executor.states["busy"] = leases.JobState("running", "far", started=10, updated=30, step=1, steps=3, note="one")
    executor.states["queued"] = leases.JobState()
    console = Console(width=200, file=io.StringIO())
    console.print(jobs._draw_running(executor))
    assert [line.split() for line in console.file.getvalue().splitlines()] == [
        "job state node last step left why".split(),
        "busy running far one 40 s".split(),
    ]


def states_of(root):
    return job_states(root).set_index("name")


def test_the_state_of_all_jobs_is_read_from_the_folder(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"nothing was begun in .*; name the folder that --out of reproduce or sweep"):
        job_states(tmp_path)
    work(Line("done"), tmp_path, "me")
    now = time.time()
    running = leases.JobState("running", "far", 1, started=now - 20, updated=now, step=1, steps=3, note="one of three")
    for name in ("busy", "gone"):
        (tmp_path / ".jobs" / name).mkdir()
        leases.write_state(tmp_path, name, running)
    (tmp_path / ".jobs" / "busy" / "1.lease").write_text(json.dumps({"machine": "far", "pid": 1}))
    (tmp_path / ".jobs" / "half").mkdir()
    (tmp_path / ".jobs" / "half" / leases.STATE).write_text("{")  # just being written
    table = states_of(tmp_path)
    assert list(table.index) == ["busy", "gone", "half", "done"], "those at work come first"
    assert dict(table.state) == {"busy": "running", "gone": "lost", "half": "stopped", "done": "finished"}
    assert table.seconds_left["busy"] == pytest.approx(40, abs=1) and table.seconds_left[1:].isna().all()


def test_status_prints_a_table_or_an_object_a_line(tmp_path, capsys):
    work(Line("done"), tmp_path, "me")
    (tmp_path / ".jobs" / "bad").mkdir()
    leases.write_state(tmp_path, "bad", leases.JobState("failed", "far", reason="MemoryError: no room"))
    assert main(["status", str(tmp_path)]) == 0
    counts, head, row = capsys.readouterr().out.splitlines()
    assert counts == "1 failed, 1 finished" and head.split() == "job state node last step left why".split()
    assert row.split() == ["bad", "failed", "far", "MemoryError:", "no", "room"]
    assert main(["status", str(tmp_path), "--json", "--watch"]) == 0, "nobody is at work, so there is nothing to watch"
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["bad", "done"] and rows[0]["seconds_left"] is None


@pytest.mark.parametrize("damage", [{"state": "asleep"}, {"state": ["failed"]}, {"step": "many"}, {"reason": 5}])
def test_a_state_that_makes_no_sense_is_as_none(tmp_path, capsys, damage):
    (tmp_path / ".jobs" / "bad").mkdir(parents=True)
    assert main(["status", str(tmp_path)]) == 2 and "nothing was begun in" in capsys.readouterr().err
    values = asdict(leases.JobState("failed", step=1)) | damage
    (tmp_path / ".jobs" / "bad" / leases.STATE).write_text(json.dumps(values))
    assert leases.read_state(tmp_path, "bad") == leases.JobState()
    assert main(["status", str(tmp_path)]) == 0 and capsys.readouterr().out.startswith("1 stopped\n")


GRID = """
- data: digits
  width: [2, 3]
  coupling: [0, 0.5]
  epochs: 1
- {data: digits, width: 2, epochs: 1, coupling: 0}
- {data: digits, seed: [4], epochs: 1}
"""


def test_a_sweep_is_every_combination_of_values(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    runs = read_sweep(tmp_path / "grid.yaml")
    expected = [RunConfig(data="digits", epochs=1, width=w, coupling=c) for w in (2, 3) for c in (0.0, 0.5)]
    assert runs == [*expected, RunConfig(data="digits", epochs=1, seed=4)], "each run is there once"
    assert varied_fields(runs) == ["width", "coupling", "seed"]
    (tmp_path / "grid.csv").write_text("data,width,coupling,lr\ndigits,2,,\ndigits,,0.5,0.1\n")
    rows = [RunConfig(data="digits", width=2), RunConfig(data="digits", coupling=0.5, lr=0.1)]
    assert read_sweep(tmp_path / "grid.csv") == rows
    (tmp_path / "grid.csv").write_text("width,blocks\n2,3,\n")
    assert read_sweep(tmp_path / "grid.csv") == [RunConfig(width=2, blocks=3)], "a comma at the end moves nothing"
    (tmp_path / "grid.yaml").write_text("lr: [1e-2, 2E+0, 3.e-1, 0.5]")
    assert [run.lr for run in read_sweep(tmp_path / "grid.yaml")] == [0.01, 2.0, 0.3, 0.5]


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("grid.yaml", "widht: 8", "a run has no field 'widht'; did you mean 'width'?"),
        ("grid.yaml", "width: [8, 0]", "entry 1: width=0 is not in [1, 65536]"),
        ("grid.yaml", "- width: 8\n- coupling: 2", "entry 2: coupling=2 is not in [0, 1]"),
        ("grid.yaml", "width: {a: 1}", "entry 1: width={'a': 1} is not a whole number"),
        ("grid.yaml", "width: [", "is not YAML ("),
        ("grid.yaml", "[1, 2]", "holds something else than fields of runs"),
        ("grid.yaml", "width: []", "entry 1: width has no value"),
        ("grid.yaml", "", "holds something else than fields of runs"),
        ("grid.yaml", f"seed: {list(range(400))}\nwidth: {list(range(1, 400))}", "describes more than 100000 runs"),
        ("grid.yaml", "a: !!python/object/apply:os.system ['false']", "is not YAML ("),
        ("grid.yaml", "width: 2\nwidth: 4", "is not YAML ('width' is there twice)"),
        ("grid.csv", "", "is not a table ("),
        ("grid.csv", "width,blocks\n2,3,4\n", "is not a table ("),
        ("grid.csv", "width,blocks\n2,3,4,5\n", "is not a table ("),
        ("grid.csv", "wide\n1", "a run has no field 'wide'; "),
        ("grid.csv", "width\nhuge", "entry 1: width='huge' is not a whole number"),
        ("grid.txt", "width: 8", "does not name a table of runs; let it end in .yaml or .csv"),
        (None, "", "there is no file"),
    ],
)
def test_sweeps_that_are_not_understood_are_refused_before_the_work(tmp_path, capsys, name, text, says):
    if name:
        (tmp_path / name).write_text(text)
    assert main(["sweep", str(tmp_path / (name or "grid.yaml")), "--out", str(tmp_path / "runs")]) == 2
    line = capsys.readouterr().err
    assert says in line and line.count("\n") == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (["--workers", "0"], "--workers 0 is too few"),
        (["--address", "x:1"], "--address x:1 is not for --on here; leave it out"),
        (["--memory", "4GB"], "--memory 4GB is not for --on here"),
        (["--on", "slurm", "--address", "x:1"], "--address x:1 is not for --on slurm"),
        (["--on", "ray", "--memory", "9" * 400], "is not an amount of memory; use a number and a unit, as 4GB"),
        (
            ["--on", "ray", "--memory", "lots"],
            "--memory lots is not an amount of memory; use a number and a unit, as 4GB",
        ),
        (["--on", "ray", "--gpus-per-run", "-1"], "--gpus-per-run -1"),
        (["--on", "ray", "--detach"], "--detach True is not for --on ray"),
    ],
)
def test_options_that_do_not_fit_the_place_are_refused(tmp_path, capsys, words, says):
    (tmp_path / "grid.yaml").write_text(GRID)
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "runs"), *words]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.extended
@pytest.mark.medium
def test_a_sweep_ends_in_a_table_and_repeats_nothing(tmp_path, capsys):
    small = "samples: 100, evaluation_samples: 50, width: 2, blocks: 2, stages: 1, epochs: 1"
    (tmp_path / "grid.yaml").write_text(f"{{data: digits, {small}, precision: [float32, bf16]}}")
    words = ["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "runs"), "--workers", "1"]
    assert main([*words, "--dry-run"]) == 0 and "2 of 2 runs to do" in capsys.readouterr().out
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "runs" / "grid.csv")
    assert list(table.precision) == ["float32", "bf16"] and table.test_error.between(0, 1).all()
    before = {path: path.read_bytes() for path in tmp_path.glob("runs/digits*/*")}
    capsys.readouterr()
    assert main(words) == 0 and "2 of 2 runs in" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.glob("runs/digits*/*")} == before
    assert dict(states_of(tmp_path / "runs").state.value_counts()) == {"finished": 2}
