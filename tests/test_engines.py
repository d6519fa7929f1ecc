"""The engines for Ray and SLURM without their clusters; `tests/cluster` has the clusters."""

import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from iterconv import InputError
from iterconv.studies.executors import slurm
from iterconv.studies.executors.base import Died
from iterconv.studies.executors.ray import RayEngine, RayHandle
from iterconv.studies.executors.slurm import SlurmEngine
from iterconv.studies.executors.work import work


@dataclass(frozen=True)
class Waiter:
    """A job that sends its own process a signal, and then waits to be asked to stop."""

    number: int
    name: str = "waiter"
    finishes: bool = False

    def finished(self, root):
        return (root / "done").exists()

    def run(self, root, on_progress, stop):
        assert not stop.is_set()
        os.kill(os.getpid(), self.number)
        assert stop.is_set()
        if self.finishes:
            (root / "done").touch()
            return
        raise KeyboardInterrupt


NAMES = ("NodeDiedError", "LocalRayletDiedError", "WorkerCrashedError", "OutOfMemoryError", "TaskCancelledError")
EXCEPTIONS = SimpleNamespace(**{name: type(name, (Exception,), {}) for name in NAMES})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("NodeDiedError", Died("its node was lost", counts=False)),
        ("LocalRayletDiedError", Died("its node was lost", counts=False)),
        ("WorkerCrashedError", Died("its worker died")),
        ("OutOfMemoryError", Died("Ray killed its worker, as the node ran out of memory")),
        ("TaskCancelledError", None),
    ],
)
def test_a_lost_node_is_not_the_jobs_fault_and_a_dead_worker_may_be(error, expected):
    future = Future()
    handle = RayHandle(EXCEPTIONS, None, future, lambda: False)
    assert not handle.done()
    future.set_exception(getattr(EXCEPTIONS, error)())
    assert handle.done() and handle.problem() == expected


class FakeRay:
    """The part of Ray that the engine uses; tasks are never done."""

    exceptions = EXCEPTIONS

    def __init__(self):
        self.options, self.cancelled = {}, []

    def init(self, address, **options):
        self.address = address

    def remote(self, **options):
        self.options = options
        task = SimpleNamespace(remote=lambda job, root, launcher: SimpleNamespace(name=job.name, future=Future))
        return lambda function: SimpleNamespace(options=lambda name: task)

    def cancel(self, task):
        self.cancelled.append(task.name)


def test_ray_gets_the_resources_repeats_nothing_and_gives_up_only_what_waits(tmp_path, monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayEngine(cpus=2, gpus=0.25, memory=4 * 10**9, max_parallel=3)
    assert ray.options == {"num_cpus": 2, "num_gpus": 0.25, "memory": 4 * 10**9, "max_retries": 0}
    assert ray.address == "auto" and engine.parallel == 3
    for name in ("waits", "works"):
        assert not engine.start(Waiter(0, name), tmp_path, "launcher").done()
    (tmp_path / ".jobs" / "works").mkdir(parents=True)
    (tmp_path / ".jobs" / "works" / "1.lease").touch()
    engine.ask_to_stop()
    assert ray.cancelled == ["waits"]


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:port"])
def test_an_address_without_a_cluster_is_refused_at_once(address, monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(InputError, match=f"address='{address}' has no Ray cluster for us .*docs/clusters.md"):
        RayEngine(address)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="refused"):
            RayEngine(f"127.0.0.1:{closed.getsockname()[1]}")
    assert not hasattr(ray, "address"), "Ray itself would try for minutes"


def test_without_their_libraries_the_engines_say_what_to_install(monkeypatch):
    for name, engine in (("ray", RayEngine), ("submitit", SlurmEngine)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=rf"--on \w+ needs {name}; pip install 'iterconv\[\w+\]'"):
            engine()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that puts a shell script in front of the path; scripts note how they were called in calls.txt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.txt"))

    def write(name, script):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    write("sbatch", "")
    write("scancel", "")
    write("scontrol", "")
    return write


class FakeSubmitit:
    """The part of submitit that the engine uses; each batch is an array with the next number."""

    core = SimpleNamespace(utils=SimpleNamespace(FailedSubmissionError=type("FailedSubmissionError", (Exception,), {})))

    def __init__(self):
        self.arrays = []
        self.fails = False

    def AutoExecutor(self, folder, cluster):  # noqa: N802
        return FakeExecutor(self)


class FakeExecutor:
    def __init__(self, module):
        self.module, self.jobs = module, []

    def update_parameters(self, **options):
        self.options = options

    def batch(self):
        return self

    def __enter__(self):
        pass

    def __exit__(self, *problem):
        if self.module.fails:
            raise FakeSubmitit.core.utils.FailedSubmissionError("Invalid\naccount")
        self.module.arrays.append((len(self.jobs), self.options))
        for index, job in enumerate(self.jobs):
            job.job_id = f"{len(self.module.arrays)}_{index}"

    def submit(self, function, task):
        assert pickle.loads(task).args[1].is_absolute()
        self.jobs.append(SimpleNamespace())
        return self.jobs[-1]


@pytest.fixture
def submitit(monkeypatch):
    module = FakeSubmitit()
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setattr(slurm, "POLL", 0.0)
    return module


def test_slurm_gets_arrays_one_after_the_other_and_is_believed_only_about_the_lost(
    tmp_path, command, submitit, monkeypatch
):
    monkeypatch.setattr(slurm, "ARRAY", 2)
    command("squeue", "")
    engine = SlurmEngine(cpus=2, gpus=1, memory=2**31, max_parallel=1)
    handles = [engine.start(Waiter(0, name), tmp_path, "launcher") for name in "abc"]
    answer = {"1_0": "RUNNING", "1_1": "PENDING", "2": "PENDING", "2_0": "PENDING"}
    command("squeue", "\n".join(f"echo '{job}|{state}'" for job, state in answer.items()))
    assert not any(handle.done() for handle in handles)
    assert [count for count, _ in submitit.arrays] == [2, 1]
    first, second = (options for _, options in submitit.arrays)
    assert (first["cpus_per_task"], first["gpus_per_node"], first["mem_gb"]) == (2, 1, 2.0)
    assert first["slurm_array_parallelism"] == 1 and first["slurm_dependency"] is None
    assert second["slurm_dependency"] == "afterany:1"

    answer |= {"1_0": "CANCELLED", "1_1": "NODE_FAIL"}
    del answer["2_0"]  # it ended long ago
    command("squeue", "\n".join(f"echo '{job}|{state}'" for job, state in answer.items()))
    assert all(handle.done() for handle in handles)
    cancelled, node_failed, forgotten = (handle.problem() for handle in handles)
    assert cancelled == Died("SLURM ended it as CANCELLED")
    assert node_failed == Died("SLURM ended it as NODE_FAIL", counts=False)
    assert forgotten is None


def test_a_new_launcher_watches_what_another_queued_and_stops_it(tmp_path, command, submitit):
    command("squeue", "echo '1_0|PENDING'; echo '1_1|FAILED'")
    engine = SlurmEngine()
    handles = [engine.start(Waiter(0, name), tmp_path, "one") for name in "ab"]
    assert [handle.done() for handle in handles] == [False, True]

    engine = SlurmEngine()
    handles = [engine.start(Waiter(0, name), tmp_path, "two") for name in "ab"]
    assert not handles[0].done() and handles[0].id == "1_0"
    assert [count for count, _ in submitit.arrays] == [2, 1], "only what has ended is queued again"
    engine.ask_to_stop()
    calls = (tmp_path / "calls.txt").read_text()
    assert "scancel --quiet --state=PENDING 1_0\n" in calls
    assert "scancel --quiet --state=RUNNING --signal=INT 1_0\n" in calls


def test_the_queue_is_read_once_for_all_jobs_that_are_started_together(tmp_path, command, submitit, monkeypatch):
    command("squeue", "echo '1_0|PENDING'; echo '1_1|FAILED'")
    engine = SlurmEngine()
    SlurmEngine().start(Waiter(0, "a"), tmp_path, "other").done()
    reads, read = [], slurm._read_queue
    monkeypatch.setattr(slurm, "_read_queue", lambda folder: reads.append(folder) or read(folder))
    handles = [engine.start(Waiter(0, name), tmp_path, "one") for name in "abc"]
    assert len(reads) == 1 and handles[0].id == "1_0"
    engine.look()
    SlurmEngine().start(Waiter(0, "d"), tmp_path, "other").done()
    engine.start(Waiter(0, "d"), tmp_path, "one")
    assert len(reads) == 3, "once by each launcher, as the other may have queued something meanwhile"


def test_a_line_of_the_queue_that_a_full_disk_cut_off_is_left_out(tmp_path):
    (tmp_path / "queue.csv").write_text("a,1_0\nb,1_1\na,2_0\nc\nd,3_4")
    assert slurm._read_queue(tmp_path) == {"a": "2_0", "b": "1_1"}


def test_a_controller_that_is_away_for_a_while_changes_nothing(tmp_path, command, submitit):
    command("squeue", "echo '1_0|RUNNING'")
    engine = SlurmEngine()
    handle = engine.start(Waiter(0), tmp_path, "launcher")
    assert not handle.done()
    command("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert not handle.done()
    with pytest.raises(InputError, match="SLURM does not answer .Unable to contact slurm controller.; run `sinfo`"):
        SlurmEngine()


def test_what_slurm_refuses_is_told_in_a_line(tmp_path, command, submitit):
    command("squeue", "")
    for name in ("cpus", "gpus"):
        with pytest.raises(InputError, match=f"{name}_per_run=0.5 is not a whole number"):
            SlurmEngine(**{name: 0.5})
    submitit.fails = True
    handle = SlurmEngine().start(Waiter(0), tmp_path, "launcher")
    with pytest.raises(InputError, match="SLURM did not take the jobs .Invalid account.; .*SBATCH_ACCOUNT"):
        handle.done()
    assert not (tmp_path / ".jobs" / ".slurm" / "queue.csv").exists()


def test_a_machine_without_slurm_is_told(monkeypatch, submitit):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="no sbatch; run it on a login node"):
        SlurmEngine()


WORKER = """
import os, pickle, sys
from pathlib import Path
from iterconv.studies.executors.slurm_worker import work_in_slurm
assert "torch" not in sys.modules, "a signal that comes while torch is imported would kill the process"
for number, (task, state) in enumerate(pickle.loads(Path(sys.argv[1]).read_bytes())):
    os.environ.update(SLURM_JOB_ID=str(number), STATE=state)
    try:
        work_in_slurm(task)
        print(number, 0)
    except SystemExit as problem:
        print(number, problem)
"""


@pytest.mark.extended
@pytest.mark.medium
def test_a_job_is_queued_again_unless_it_is_done_or_unwanted(tmp_path, command, monkeypatch):
    cases = [  # the signal, whether the job still finishes, what SLURM says of it, whether it is to be queued again
        (signal.SIGUSR2, False, "RUNNING", True),  # the time is nearly up
        (signal.SIGTERM, False, "RUNNING", True),  # the place is needed
        (signal.SIGTERM, False, "CANCELLED", False),
        (signal.SIGINT, False, "RUNNING", False),  # a launcher stops
        (signal.SIGTERM, True, "RUNNING", False),
    ]
    command("squeue", "echo $STATE")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    tasks = []
    for index, (number, finishes, state, _) in enumerate(cases):
        root = tmp_path / str(index)
        tasks.append((pickle.dumps(partial(work, Waiter(number, finishes=finishes), root, "launcher")), state))
        root.mkdir()
    (tmp_path / "tasks").write_bytes(pickle.dumps(tasks))
    process = subprocess.run([sys.executable, "-c", WORKER, tmp_path / "tasks"], capture_output=True, text=True)
    assert process.stderr == ""
    assert process.stdout.split("\n")[:5] == ["0 1", "1 1", "2 1", "3 0", "4 0"]
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    requeued = [f"scontrol requeue {index}" for index, (*_, again) in enumerate(cases) if again]
    assert [call for call in calls if call.startswith("scontrol")] == requeued
