"""A sweep on this machine, whose launcher is killed twenty times at random moments, alone or with its workers."""

import random
import time

import pytest

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
