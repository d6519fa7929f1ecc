"""Runs on several devices: processes on the CPU here, whose numbers are those of one process."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import shared_runs
from commands import TINY, refused
from iterconv import InputError
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.run import complete

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.extended)])
def shared(request, tmp_path_factory):
    """What each process of a team has at the end of each run; with three, a share of the last batch is empty."""
    folder = tmp_path_factory.mktemp("team")
    command = [sys.executable, shared_runs.__file__]
    team = [subprocess.Popen([*command, str(rank), str(request.param), str(folder)]) for rank in range(request.param)]
    try:
        for process in team:
            process.wait(timeout=240)
    finally:
        for process in team:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", shared_runs.RUNS)
def test_a_team_trains_as_one_process_does(shared, name):
    state, rows = shared_runs.trained(shared_runs.RUNS[name])
    for found, history in (process[name] for process in shared):
        assert found.keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-10, atol=1e-12, msg=lambda text, key=key: f"{key} {text}"
            )
        for row, expected in zip(history, rows, strict=True):
            assert row == pytest.approx(expected, rel=1e-10)


RUN = RunConfig(width=4, blocks=2, epochs=4, samples=150, coupling=0.5, residual="proper", augment=True)


def kill_a_process(_):
    os.kill(multiprocessing.active_children()[1].pid, signal.SIGKILL)


@pytest.mark.extended
def test_stopped_on_one_device_killed_and_finished_on_two(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    stop, rows = threading.Event(), []
    with pytest.raises(KeyboardInterrupt):
        complete(RUN, two, on_epoch=lambda row: stop.set(), stop=stop)
    saved = (two / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match=r"process \d of 2 died \(SIGKILL\).*the same command goes on from the last"):
        complete(RUN, two, devices=2, on_epoch=kill_a_process)
    assert not multiprocessing.active_children() and (two / "checkpoint.pt").read_bytes() == saved
    result = complete(RUN, two, devices=2, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [2, 3, 4]
    other = complete(RUN, one)
    assert (result["devices"], other["devices"]) == (2, 1) and result["name"] == other["name"]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert complete(RUN, two) == result, "it is finished, whatever the number of devices"
    pd.testing.assert_frame_equal(*(pd.read_csv(path / "history.csv") for path in (one, two)), rtol=1e-4)
    weights = [load_file(path / "best.safetensors") for path in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.extended
def test_what_ends_the_loop_in_a_process_is_told_as_that_of_a_single_one(tmp_path):
    with pytest.raises(InputError, match="loss became (nan|inf) in epoch 1; lower --lr"):
        complete(replace(RUN, lr=1e30, residual="ordinary"), tmp_path / "run", devices=2)
    assert not list(tmp_path.iterdir()), "the folder is free for other options"


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_them_with_a_checkpoint(tmp_path, number):
    process = start(tmp_path)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    last = errors.splitlines()[-1]
    assert last.startswith("iterconv: stopped; ") and last.endswith("the same command goes on from there")
    assert "Traceback" not in errors
    config = RunFolder.existing(tmp_path / "x").config
    saved = RunFolder(tmp_path / "x", config).load_checkpoint()["progress"]
    assert saved["epoch"] >= 1 and len(pd.read_csv(tmp_path / "x" / "history.csv")) == saved["epoch"]


@pytest.mark.extended
def test_without_their_launcher_the_processes_save_and_end(tmp_path):
    process = start(tmp_path)
    process.kill()
    assert "Traceback" not in process.communicate(timeout=240)[1]  # which ends when nobody can write there any more
    assert (tmp_path / "x" / "checkpoint.pt").exists()


def start(folder):
    """A long run on two devices that has done an epoch."""
    small = ["--width", "2", "--blocks", "2", "--samples", "100", "--epochs", "100000", "--devices", "2"]
    command = [sys.executable, "-m", "iterconv", "train", *small, "--out", str(folder / "x")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    wait_for(lambda: (folder / "x" / "history.csv").exists() or process.poll() is not None)
    return process


def wait_for(condition):
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--devices", "0"], "--devices 0 is too few; use 1 or more"),
        (["--devices", "33", "--device", "cpu"], "--devices 33 is more than the 32 images of a batch; use fewer"),
        (["--devices", "3", "--device", "cuda"], "--devices 3 is more than the 2 GPUs of this machine; use fewer"),
        (["--devices", "2", "--device", "cuda:1"], "--device cuda:1 is not a kind of 2 devices; use cpu or cuda"),
    ],
)
def test_devices_that_are_not_there(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert says in refused(capsys, "train", *TINY, *arguments, "--out", str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_the_configuration_knows_nothing_of_devices():
    assert "devices" not in json.dumps(RUN.to_dict())
