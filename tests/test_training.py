import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch.utils._python_dispatch import TorchDispatchMode

from damage import denied, one_bit_flipped
from iterconv import InputError, data, measure
from iterconv.measuring.report import Report
from iterconv.studies.jobs import TrainingRun
from iterconv.tasks import Task
from iterconv.training import loop
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.network import make_network
from iterconv.training.progress import Progress
from iterconv.training.run import complete, open_run
from iterconv.training.trainee import evaluate
from stopping import StopAfter

pytestmark = pytest.mark.medium

TINY = RunConfig(width=4, blocks=2, epochs=3, samples=150)


def weights(folder):
    return (folder / "best.safetensors").read_bytes()


def test_a_run_leaves_everything_that_it_promises(tmp_path):
    rows = []
    result = complete(TINY, tmp_path / "run", on_epoch=rows.append)
    names = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {"config.json", "history.csv", "best.safetensors", "report.parquet", "README.md", "result.json"}
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.epoch.tolist() == [1, 2, 3] and len(rows) == 3
    assert history.lr.tolist() == pytest.approx([0.1, 0.1, 0.01])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config.pop("seal") and config == TINY.to_dict()
    network, dataset, _ = open_run(tmp_path / "run")
    assert result["test_error"] == evaluate(network, dataset, dataset.test)[1]
    again = measure(network, dataset.batches(dataset.test))
    pd.testing.assert_frame_equal(again.curves, Report.load(tmp_path / "run" / "report.parquet").curves)


def test_a_finished_run_is_never_trained_again(tmp_path, monkeypatch):
    first = complete(TINY, tmp_path / "run")
    monkeypatch.setattr("iterconv.training.run.train", lambda *a: pytest.fail("trained again"))
    assert complete(TINY, tmp_path / "run") == first


@pytest.mark.parametrize("options", [{}, {"coupling": 0.5, "augment": True}, {"residual": "proper", "coupling": 1.0}])
def test_stopped_anywhere_and_started_again_it_ends_with_the_same_bytes(tmp_path, options):
    run = replace(TINY, **options)
    complete(run, tmp_path / "whole")
    for steps in (2, 5, 3):
        with pytest.raises(KeyboardInterrupt):
            complete(run, tmp_path / "parts", stop=StopAfter(steps))
    complete(run, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    for name in ("history.csv", "report.parquet"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


KILLED = """
import json, os, signal, sys, torch
from pathlib import Path
from iterconv.training import loop
from iterconv.training.config import RunConfig
from iterconv.training.run import complete

loop.SAVE_EVERY = 0.0
torch.set_num_threads(1)
replaced, replace = [], os.replace

def killed_at_the_seventh_checkpoint(source, target):
    replaced.append(Path(target).name)
    if replaced.count("checkpoint.pt") == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = killed_at_the_seventh_checkpoint
complete(RunConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.extended
def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path):
    complete(TINY, tmp_path / "whole")
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(TINY.to_dict()), str(tmp_path / "killed")])
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "result.json").exists()
    assert len(list((tmp_path / "killed").glob("*checkpoint.pt*"))) == 2, "the earlier one, and what was being written"
    complete(TINY, tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_the_best_epoch_is_kept(tmp_path):
    complete(replace(TINY, epochs=6), tmp_path / "run")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    network, dataset, _ = open_run(tmp_path / "run")
    assert evaluate(network, dataset, dataset.validation)[1] == history.selection_error.min()


@pytest.mark.parametrize(
    "errors, kept", [([0.5, 0.2, 0.4], 2), ([0.5, 0.2, 0.2, 0.3], 3), ([0.1, 0.1], 2), ([0.1, 0.2], 1)]
)
def test_of_equally_good_epochs_the_later_one_is_kept(errors, kept):
    progress, network = Progress(), make_network(TINY, data.load("digits"))
    for epoch, error in enumerate(errors, 1):
        torch.nn.init.constant_(network.head.linear.bias, epoch)
        progress.finish_epoch({"selection_error": error}, network)
    assert progress.best["head.linear.bias"].tolist() == [kept] * 10


def test_selection_on_the_test_split_is_an_option(tmp_path):
    result = complete(replace(TINY, selection="test"), tmp_path / "run")
    assert result["test_error"] == pd.read_csv(tmp_path / "run" / "history.csv").selection_error.min()


def test_coupling_at_1_keeps_blocks_equal_through_a_run(tmp_path):
    complete(replace(TINY, coupling=1.0), tmp_path / "run")
    state = load_file(tmp_path / "run" / "best.safetensors")
    assert torch.equal(state["stages.0.blocks.0.conv1.weight"], state["stages.0.blocks.1.conv1.weight"])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["effective"] == result["tied"] and result["mean_deviation"] == 0


def test_coupling_at_0_is_the_plain_loop_bit_for_bit(tmp_path):
    run = replace(TINY, epochs=1)
    complete(run, tmp_path / "run")
    dataset = data.load("digits", samples=150)
    network = make_network(run, dataset).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for inputs, targets in dataset.training_batches(32, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    trained = load_file(tmp_path / "run" / "best.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_equal_seeds_give_equal_networks_and_leave_the_global_random_state():
    dataset = data.load("digits")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = make_network(TINY, dataset), make_network(TINY, dataset)
    other = make_network(replace(TINY, seed=1), dataset)
    assert torch.equal(first.stem.weight, second.stem.weight)
    assert not torch.equal(first.stem.weight, other.stem.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_pinned_run(tmp_path):
    """Losses of a tiny seeded run: a change that should not alter numbers must leave them."""
    complete(replace(TINY, coupling=0.5), tmp_path / "run")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.train_loss.tolist() == pytest.approx(PINNED_LOSSES, rel=1e-3)


PINNED_LOSSES = [2.382659, 2.331592, 2.301498]


def test_a_loss_that_becomes_nan_is_told_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match="loss became (nan|inf) in epoch .*lower --lr"):
        complete(replace(TINY, lr=1e30), tmp_path / "run")
    assert not list(tmp_path.iterdir()), "the folder is free for other options"


def test_a_loss_that_becomes_nan_later_frees_the_folder_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Task, "loss", lambda task, outputs, targets: next(losses) * outputs.mean())
        losses = iter([1.0] * 6 + [math.nan] * 50)
        with pytest.raises(InputError, match="loss became nan in epoch 2"):
            complete(TINY, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    complete(replace(TINY, lr=0.01, epochs=1), tmp_path / "run")


def test_the_folder_of_another_run_is_refused(tmp_path):
    complete(replace(TINY, epochs=1), tmp_path / "run")
    with pytest.raises(InputError, match="holds another run.*width is 4 there, 8 here"):
        complete(replace(TINY, epochs=1, width=8), tmp_path / "run")


def test_a_checkpoint_of_another_run_and_a_truncated_one_are_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        complete(TINY, tmp_path / "run", stop=StopAfter(2))
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"PK\x03\x04 nonsense", whole[:-100]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged.*; delete it.* to start .*anew"):
            complete(TINY, tmp_path / "run")
    RunFolder(tmp_path / "run", TINY).save_checkpoint({"something": 1})
    with pytest.raises(InputError, match="is damaged; delete it"):
        complete(TINY, tmp_path / "run")
    other = replace(TINY, seed=9)
    with pytest.raises(KeyboardInterrupt):
        complete(other, tmp_path / "other", stop=StopAfter(2))
    checkpoint.write_bytes((tmp_path / "other" / "checkpoint.pt").read_bytes())
    with pytest.raises(InputError, match="is of another run"):
        complete(TINY, tmp_path / "run")


def test_a_checkpoint_never_executes_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    folder = RunFolder(tmp_path / "run", TINY)
    (tmp_path / "run").mkdir()
    torch.save({"run": TINY.hash, "x": Evil()}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(InputError, match="damaged"):
        folder.load_checkpoint()
    assert not (tmp_path / "executed").exists()


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with RunFolder(tmp_path / "run", TINY).claim():
        with pytest.raises(InputError, match="another process"), RunFolder(tmp_path / "run", TINY).claim():
            pass


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        complete(TINY, tmp_path / "run", stop=StopAfter(4))
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="No space left on device.*what was saved before is intact"):
            complete(TINY, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".checkpoint")]
    complete(TINY, tmp_path / "run")


def test_damaged_or_missing_files_of_a_run(tmp_path):
    with pytest.raises(InputError, match="there is no"):
        open_run(tmp_path / "nowhere")
    complete(replace(TINY, epochs=1), tmp_path / "run")
    best = tmp_path / "run" / "best.safetensors"
    whole = best.read_bytes()
    best.write_bytes(whole[:100])
    with pytest.raises(InputError, match="damaged"):
        open_run(tmp_path / "run")
    best.unlink()
    with pytest.raises(InputError, match="no weights"):
        open_run(tmp_path / "run")
    complete(replace(TINY, epochs=1), tmp_path / "run")
    assert best.read_bytes() == whole  # deleting what is damaged and giving the command again repairs the run
    open_run(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"width": 0}')
    with pytest.raises(InputError, match="is not a run's configuration: width=0 is not in"):
        open_run(tmp_path / "run")


def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="device 'cuda:99'|device 'nonsense'"):
        complete(TINY, tmp_path / "run", device="nonsense")


def test_more_stages_than_the_images_can_be_halved(tmp_path):
    with pytest.raises(InputError, match="stages=5 halve maps of 8 pixels"):
        complete(replace(TINY, stages=5), tmp_path / "run")


def test_training_in_another_thread_works(tmp_path):
    thread = threading.Thread(target=complete, args=(replace(TINY, epochs=1), tmp_path / "run"))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "result.json").exists()


def test_without_a_validation_split_the_epoch_cannot_be_chosen(tmp_path):
    few = replace(data.load("digits"), validation=data.load("digits").validation[:0])
    folder = RunFolder(tmp_path / "run", TINY)
    with folder.claim(), pytest.raises(InputError, match="too few images for a validation split"):
        loop.train(TINY, folder, few)


def test_leftovers_of_a_killed_writer_are_cleared_up(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".checkpoint.pt.abc").write_bytes(b"half")
    complete(replace(TINY, epochs=1), tmp_path / "run")
    assert not list((tmp_path / "run").glob(".checkpoint*"))


def test_interrupted_while_measuring_nothing_is_trained_again(tmp_path, monkeypatch):
    stop, epochs = threading.Event(), []
    run = replace(TINY, epochs=2)
    with monkeypatch.context() as patched:
        patched.setattr(
            "iterconv.training.run.measure", lambda net, batches, progress: (stop.set(), progress(1, None), batches)[2]
        )
        with pytest.raises(KeyboardInterrupt):
            complete(run, tmp_path / "run", on_epoch=epochs.append, stop=stop)
    assert len(epochs) == 2 and not (tmp_path / "run" / "result.json").exists()
    complete(run, tmp_path / "run", on_epoch=epochs.append)
    assert len(epochs) == 2 and (tmp_path / "run" / "result.json").exists()
    complete(run, tmp_path / "other")
    files = [tmp_path / name / "best.safetensors" for name in ("run", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


FEW = replace(TINY, epochs=1, samples=40)


def threads_while(run, path):
    """The numbers of threads at the ends of a run's epochs."""
    seen = set()
    complete(run, path, on_epoch=lambda _: seen.add(torch.get_num_threads()))
    return seen


@pytest.mark.extended
def test_the_number_of_threads_is_the_runs_own(tmp_path):
    torch.set_num_threads(2)
    try:
        assert threads_while(FEW, tmp_path / "one") == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads_while(replace(FEW, threads=2), tmp_path / "two") == {2} and torch.get_num_threads() == 1
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert [result["threads"] for result in results] == [1, 2]
    complete(FEW, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(tmp_path / "one")


@pytest.mark.extended
def test_another_number_of_threads_is_another_run(tmp_path):
    for here, there in ((1, 2), (2, 1)):
        path = tmp_path / str(there)
        with pytest.raises(KeyboardInterrupt):
            complete(replace(FEW, threads=there), path, stop=StopAfter(2))
        with pytest.raises(InputError, match=f"holds another run \\(threads is {there} there, {here} here\\)"):
            complete(replace(FEW, threads=here), path)
        complete(replace(FEW, threads=there), path)


@pytest.mark.parametrize("options", [{"blocks": 1}, {"blocks": 2, "first_coupled": 1}, {"first_coupled": 9}])
def test_where_nothing_can_be_tied_the_run_is_finished_all_the_same(tmp_path, options):
    result = complete(replace(TINY, epochs=1, **options), tmp_path / "run")
    assert result["raw"] == result["tied"] == result["effective"] and result["mean_deviation"] == 0


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A finished run with a checkpoint that was left behind."""
    path = tmp_path_factory.mktemp("finished") / "run"
    with pytest.raises(KeyboardInterrupt):
        complete(TINY, path, stop=StopAfter(7))
    checkpoint = (path / "checkpoint.pt").read_bytes()
    complete(TINY, path)
    (path / "checkpoint.pt").write_bytes(checkpoint)
    return path


@pytest.fixture
def finished(original, tmp_path):
    """The same, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def opened(path):
    """Whatever reads a file of a run."""
    folder = RunFolder.existing(path)
    folder.load_checkpoint()
    folder.result()
    Report.load(path / "report.parquet")
    open_run(path)


FILES = ("config.json", "result.json", "best.safetensors", "checkpoint.pt", "report.parquet")


@pytest.mark.extended
@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_flipped_bit_is_never_used(original, finished, tmp_path, name):
    opened(tmp_path / "run")  # which removes the checkpoint
    shutil.copytree(original, tmp_path / "run", dirs_exist_ok=True)
    whole = (tmp_path / "run" / name).read_bytes()
    for flipped in one_bit_flipped(whole, 50, whole.index(b"iterconv-seal")):
        (tmp_path / "run" / name).write_bytes(flipped)
        with pytest.raises(InputError, match=rf"{name} is damaged \(its checksum does not match\); delete it") as error:
            opened(tmp_path / "run")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_files_that_may_not_be_read_are_not_called_damaged(finished, monkeypatch, name):
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: denied() if path.name == name else read_bytes(path))
    with pytest.raises(InputError, match=rf"can't read .*{name} \(Permission denied\); see to its permissions"):
        opened(finished)


def test_a_folder_that_may_not_be_looked_into(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "is_file", denied)
    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(InputError, match=r"can't read .*run \(Permission denied\)"):
        _ = RunFolder(tmp_path / "run", TINY).finished
    with pytest.raises(InputError, match=r"can't read .*config.json \(Permission denied\)"):
        open_run(tmp_path / "run")


def test_files_of_earlier_versions_have_no_seal_and_are_read(finished, original, tmp_path):
    path = tmp_path / "run"
    for name in ("config.json", "result.json"):
        values = json.loads((path / name).read_text())
        del values["seal"]
        (path / name).write_text(json.dumps(values))
    (path / "best.safetensors").write_bytes(to_bytes(load_file(path / "best.safetensors")))
    torch.save({"run": TINY.hash, "network": 5}, path / "checkpoint.pt")
    assert RunFolder(path, TINY).load_checkpoint() == {"network": 5}
    trained = load_file(original / "best.safetensors")
    assert torch.equal(open_run(path)[0].stem.weight, trained["stem.weight"])


@pytest.mark.parametrize(
    "name, contents, says",
    [
        ("config.json", "[" * 100_000, "config.json is damaged"),
        ("config.json", '{"blocks": 100000000}', "blocks=100000000 is not in \\[1, 10000\\]; use a number in"),
        ("result.json", "[" * 100_000, "result.json is damaged"),
        ("result.json", '{"test_error": null}', r"result.json is damaged \(test_error is not a number\)"),
        ("result.json", '{"test_error": "much"}', r"test_error is not a number"),
        ("result.json", '{"test_error": [1]}', r"test_error is not a number"),
        ("result.json", '{"test_error": 0.5}', r"test_examples is not a number"),
        ("result.json", '{"test_error": NaN}', r"test_error is not a number"),
    ],
)
def test_hand_made_files_are_told_in_a_line(finished, tmp_path, name, contents, says):
    (tmp_path / "run" / name).write_text(contents)
    with pytest.raises(InputError, match=says):
        complete(TINY, tmp_path / "run")


def test_pipes_in_the_place_of_files(original, tmp_path):
    for name in FILES:
        path = tmp_path / name
        shutil.copytree(original, path)
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises(InputError, match=f"{name} is not a file; move it away"):
            opened(path)


SENSELESS = [
    lambda state: state.clear(),
    lambda state: state.pop("network"),
    lambda state: state["progress"].update(epoch=10**6),
    lambda state: state["progress"].update(epoch=math.nan),
    lambda state: state["progress"].update(epoch=0),
    lambda state: state["progress"].update(batch=-1),
    lambda state: state["progress"].update(samples=None),
    lambda state: state["progress"].update(loss=math.nan),
    lambda state: state["progress"].update(loss="x"),
    lambda state: state["progress"].update(history=[{}]),
    lambda state: state["progress"].update(history=5),
    lambda state: state["progress"].update(best={}),
    lambda state: state["progress"].update(best=[1]),
    lambda state: state["progress"].update(best_error=0.0),
    lambda state: state["progress"].update(state_dict=1),
    lambda state: state["progress"].pop("history"),
    lambda state: state.update(progress=[1]),
    lambda state: state.update(optimizer={}),
    lambda state: next(iter(state["optimizer"]["state"].values())).update(momentum_buffer=torch.zeros(1, 2, 3)),
]


@pytest.mark.parametrize("number", range(len(SENSELESS)))
def test_a_checkpoint_that_makes_no_sense_is_refused(finished, tmp_path, number):
    path = tmp_path / "run"
    (path / "result.json").unlink()
    folder = RunFolder(path, TINY)
    state = folder.load_checkpoint()
    SENSELESS[number](state)
    folder.save_checkpoint(state)
    with pytest.raises(InputError, match="checkpoint.pt is damaged; delete it to start this run anew"):
        complete(TINY, path)
    assert (path / "config.json").exists() and (path / "checkpoint.pt").exists()


def test_a_pickle_of_another_protocol_is_refused_without_a_warning(tmp_path):
    folder = RunFolder(tmp_path, TINY)
    torch.save({"run": TINY.hash, "x": np.float64}, tmp_path / "checkpoint.pt", pickle_protocol=4)
    with pytest.raises(InputError, match="is damaged"):  # warnings are errors here
        folder.load_checkpoint()


def test_the_lock_never_touches_what_a_link_in_its_place_leads_to(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="can't write to .*run .*symbolic links"):
        complete(TINY, tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink()
    os.link(tmp_path / "precious", tmp_path / "run" / ".lock")
    complete(replace(TINY, epochs=1), tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.extended
def test_the_folder_module_needs_nothing_that_windows_lacks():
    code = "import sys; sys.modules['fcntl'] = None; import iterconv.training.folder"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE).returncode == 0


def test_the_owner_is_looked_at_while_the_folder_is_held(original, tmp_path, monkeypatch):
    """Another run that finishes between a look and the lock would be taken for this one."""
    from filelock import FileLock

    acquire = FileLock.acquire

    def late(self, *arguments, **options):
        shutil.copytree(original, tmp_path / "run", dirs_exist_ok=True)
        return acquire(self, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    with pytest.raises(InputError, match="holds another run .seed is 0 there, 2 here"):
        complete(replace(TINY, seed=2), tmp_path / "run")


@pytest.mark.parametrize("again", [lambda path: complete(TINY, path), open_run])
def test_a_checkpoint_beside_a_finished_run_is_removed(finished, tmp_path, again):
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    again(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_the_end_of_an_epoch_is_saved_if_the_last_checkpoint_is_some_seconds_old(tmp_path, monkeypatch):
    saved, clock = [], iter(range(0, 10_000, 3))
    monkeypatch.setattr(
        "iterconv.training.checkpoint.time.monotonic", lambda: next(clock) / 5 * (loop.SAVE_AFTER_EPOCH / 4)
    )
    monkeypatch.setattr(RunFolder, "save_checkpoint", lambda folder, state: saved.append(state["progress"]))
    complete(replace(TINY, epochs=6), tmp_path / "run")
    assert [(state["epoch"], state["batch"]) for state in saved] == [(e, 0) for e in range(2, 7, 2)]


@pytest.mark.parametrize("name", ["best.safetensors", "report.parquet"])
def test_training_a_finished_run_again_tells_its_damage(finished, tmp_path, name):
    shutil.copytree(finished, tmp_path / "copy")
    whole = (tmp_path / "copy" / name).read_bytes()
    (tmp_path / "copy" / name).write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        complete(TINY, tmp_path / "copy")


@pytest.mark.extended
def test_a_history_with_one_flipped_bit_is_never_used(finished):
    job, path = TrainingRun(TINY), finished / "history.csv"
    whole = path.read_bytes()
    assert len(RunFolder(finished, TINY).history()) == TINY.epochs
    finished.rename(finished.parent / job.name)
    path = finished.parent / job.name / "history.csv"
    for flipped in (*one_bit_flipped(whole, 50, 0), b""):
        path.write_bytes(flipped)
        for read in (lambda: job.tables(path.parent.parent), lambda: complete(TINY, path.parent)):
            with pytest.raises(InputError, match=r"history.csv is missing or damaged \(its checksum does not match\)"):
                read()
    path.write_bytes(whole)
    assert len(job.tables(path.parent.parent)["history"]) == TINY.epochs


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: numbers that are asked for, and shapes that follow from data."""

    WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique", "aten::equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().partition(".")[0].startswith(self.WAITING)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options", [{}, {"coupling": 0.5, "augment": True}, {"residual": "proper"}, {"residual": "improper"}]
)
def test_no_training_step_waits_for_the_device(tmp_path, monkeypatch, options):
    run = replace(TINY, batch_size=16, epochs=1, **options)
    waits, seen = Waits(), []
    count_batch = Progress.count_batch
    monkeypatch.setattr(Progress, "count_batch", lambda *args: (count_batch(*args), seen.append(waits.count)))
    with waits:
        complete(run, tmp_path / "run")
    assert len(seen) > 5 and waits.count > seen[-1], "at the end of an epoch it has to wait"
    assert len(set(seen[1:])) == 1, "the first step may settle what later ones keep"
