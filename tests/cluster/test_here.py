"""Sweeps on this machine: two launchers share one, and another's is killed twenty times, also with its workers."""

import random
import subprocess
import sys
import time

import pytest

import counted
from iterconv.studies import leases
from iterconv.studies.sweep import read_sweep
from servers import wait_until
from sweeps import Launcher, assert_equal

pytestmark = pytest.mark.slow

KILLS = 20

GRID = """\
data: digits
width: 2
blocks: 2
stages: 2
epochs: 12
samples: 400
coupling: [0.0, 0.5, 1.0]
seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "thirty.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def done_once(thirty):
    launcher = Launcher(thirty, thirty.parent / "once", "--workers", "1")
    launcher.start()
    assert launcher.wait(3600) == 0, launcher.output()
    return launcher.root


def test_a_launcher_that_is_killed_twenty_times_ends_with_the_same_bytes(folder, thirty, done_once):
    chance, caught = random.Random(0), 0
    launcher = Launcher(thirty, folder / "runs", "--workers", "2")
    for number in range(KILLS):
        launcher.start()
        wait_until(lambda: launcher.own_running() or launcher.finished() == 30, 600, "a run is at work")
        time.sleep(chance.uniform(0, 2))
        caught += bool(launcher.own_running())
        launcher.kill(everything=number % 2 == 1)
    assert caught > KILLS / 2, "most kills met a run at work"
    assert launcher.finished() < 30, "every kill came before the end"
    launcher.start()
    assert launcher.wait(3600) == 0, launcher.output()
    assert_equal(thirty, launcher.root, done_once)
    deaths = [leases.read_state(launcher.root, run.name).deaths for run in read_sweep(thirty)]
    assert not any(deaths), "a worker that dies with its launcher is not the run's fault"
    assert (launcher.root / "thirty.csv").exists()


def test_two_launchers_that_share_a_folder_begin_each_run_once(folder):
    command = [sys.executable, counted.__file__, str(folder)]
    launchers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    seen = [launcher.communicate(timeout=600)[0].split() for launcher in launchers]
    names = sorted(run.name for run in counted.runs())
    assert seen == [names, names], "each launcher sees the end of every run"
    begun = {name: (folder / "begun" / name).read_text().split() for name in names}
    assert all(len(processes) == 1 for processes in begun.values()), begun
    assert len({processes[0] for processes in begun.values()}) == 2, "both launchers' processes were at work"
