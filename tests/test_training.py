import json
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

from iterconv import InputError, data, measure
from iterconv.reports import Report
from iterconv.training import loop
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.progress import Progress
from iterconv.training.run import complete, open_run

TINY = RunConfig(width=4, blocks=2, epochs=3, samples=150)


def weights(folder):
    return (folder / "best.safetensors").read_bytes()


class StopAfter:
    """Asks to stop once it was looked at so many times."""

    def __init__(self, steps):
        self.left = steps

    def is_set(self):
        self.left -= 1
        return self.left < 0


def test_a_run_leaves_everything_that_it_promises(tmp_path):
    rows = []
    result = complete(TINY, tmp_path / "run", on_epoch=rows.append)
    names = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {"config.json", "history.csv", "best.safetensors", "report.parquet", "result.json"}
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.epoch.tolist() == [1, 2, 3] and len(rows) == 3
    assert history.lr.tolist() == pytest.approx([0.1, 0.1, 0.01])
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == TINY.to_dict()
    network, dataset, _ = open_run(tmp_path / "run")
    assert result["test_error"] == loop.evaluate(network, dataset, dataset.test)[1]
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


def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path):
    run = replace(TINY, epochs=40)
    complete(run, tmp_path / "whole")
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from iterconv.training import loop; loop.SAVE_EVERY = 0.0\n"
        "from iterconv.training.config import RunConfig; from iterconv.training.run import complete\n"
        f"from pathlib import Path; complete(RunConfig(**{run.to_dict()!r}), Path({str(tmp_path / 'killed')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    try:
        while not (tmp_path / "killed" / "checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "result.json").exists(), "killed too late to prove anything"
    complete(run, tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_the_best_epoch_is_kept(tmp_path):
    complete(replace(TINY, epochs=6), tmp_path / "run")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    network, dataset, _ = open_run(tmp_path / "run")
    assert loop.evaluate(network, dataset, dataset.validation)[1] == history.selection_error.min()


@pytest.mark.parametrize(
    "errors, kept", [([0.5, 0.2, 0.4], 2), ([0.5, 0.2, 0.2, 0.3], 3), ([0.1, 0.1], 2), ([0.1, 0.2], 1)]
)
def test_of_equally_good_epochs_the_later_one_is_kept(errors, kept):
    progress, network = Progress(), loop.make_network(TINY, data.load("digits"))
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
    network = loop.make_network(run, dataset).to(memory_format=torch.channels_last)
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
    first, second = loop.make_network(TINY, dataset), loop.make_network(TINY, dataset)
    other = loop.make_network(replace(TINY, seed=1), dataset)
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
    assert not (tmp_path / "run" / "result.json").exists()


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
        with pytest.raises(InputError, match="is damaged; delete it"):
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
    with RunFolder(tmp_path / "run", TINY).claimed():
        with pytest.raises(InputError, match="another process"), RunFolder(tmp_path / "run", TINY).claimed():
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
    (tmp_path / "run" / "config.json").write_text('{"width": "wide"}')
    with pytest.raises(InputError, match="not a run's configuration"):
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
    with folder.claimed(), pytest.raises(InputError, match="too few images for a validation split"):
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
            "iterconv.training.run.measure", lambda net, batches, progress: (stop.set(), progress(1), batches)[2]
        )
        with pytest.raises(KeyboardInterrupt):
            complete(run, tmp_path / "run", on_epoch=epochs.append, stop=stop)
    assert len(epochs) == 2 and not (tmp_path / "run" / "result.json").exists()
    complete(run, tmp_path / "run", on_epoch=epochs.append)
    assert len(epochs) == 2 and (tmp_path / "run" / "result.json").exists()
    complete(run, tmp_path / "other")
    files = [tmp_path / name / "best.safetensors" for name in ("run", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()
