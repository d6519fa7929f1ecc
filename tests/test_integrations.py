"""The callbacks of other training loops, against measuring and coupling by hand."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import distributed
import iterconv as ic
import zoo
from coupled import WithLoss, assert_equal_nets, blocks, fit_with_lightning, sgd
from iterconv.integrations.watching import Dial, Watch

pytestmark = pytest.mark.medium
BATCHES = [distributed.data(step) for step in range(distributed.STEPS)]
SCHEDULE = [0.2, 0.9, 1.0]


def trained_by_hand(net, epochs):
    """Train with a coupling of its own strength in each epoch; measure after each."""
    optimizer, found = sgd(net), []
    for epoch in range(epochs):
        with ic.couple(optimizer, blocks(net), SCHEDULE[epoch]):
            for inputs, targets in BATCHES:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(inputs), targets).backward()
                optimizer.step()
        found.append(ic.measure(net, BATCHES, resamples=0).indices)
    return net, found


def check(indices, found, every):
    """Compare the table of a callback with what was measured by hand after the same epochs."""
    epochs = [epoch for epoch in range(1, len(found) + 1) if epoch % every == 0]
    assert sorted(set(indices["epoch"])) == epochs
    for epoch in epochs:
        own = indices[indices["epoch"] == epoch].drop(columns=["epoch", "error"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(own, found[epoch - 1].reset_index(drop=True), check_dtype=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extended
@pytest.mark.parametrize("every", [1, 2])
def test_lightning_measures_and_couples_as_by_hand(tmp_path, every):
    zoo.torchvision()
    pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.loggers import CSVLogger

    from iterconv.integrations.lightning import CoupleCallback, MeasureCallback

    net = distributed.network()
    watch = MeasureCallback(BATCHES, find=lambda m: m.net, every=every, resamples=0)
    callbacks = [watch, CoupleCallback(lambda m: blocks(m.net), SCHEDULE.__getitem__)]
    fit_with_lightning(net, sgd, BATCHES, max_epochs=3, logger=CSVLogger(tmp_path), callbacks=callbacks)
    expected, found = trained_by_hand(distributed.network(), 3)
    assert_equal_nets(net, expected)
    check(watch.indices, found, every)
    logged = pd.read_csv(next(tmp_path.rglob("metrics.csv")))
    assert logged["iterconv/coupling"].dropna().tolist() == SCHEDULE
    assert logged["iterconv/error"].notna().sum() == 3 // every


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extended
def test_hugging_face_measures_and_couples_as_by_hand(tmp_path):
    zoo.torchvision()
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from iterconv.integrations.hugging_face import CoupleCallback, MeasureCallback

    net = distributed.network()
    rows = [{"inputs": inputs, "labels": label} for batch in BATCHES for inputs, label in zip(*batch, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(BATCHES[0][1]),
        num_train_epochs=3,
        max_grad_norm=0,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    optimizer = sgd(net)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    watch = MeasureCallback(BATCHES, find=lambda model: model.net, resamples=0)
    callbacks = [watch, CoupleCallback(lambda model: blocks(model.net), SCHEDULE.__getitem__)]
    trainer = transformers.Trainer(
        WithLoss(net), arguments, train_dataset=rows, optimizers=(optimizer, constant), callbacks=callbacks
    )
    trainer.train()
    expected, found = trained_by_hand(distributed.network(), 3)
    assert_equal_nets(net, expected)
    check(watch.indices, found, 1)
    assert sum("iterconv/error" in entry for entry in trainer.state.log_history) == 3


def test_what_cannot_be_watched_or_coupled_is_refused():
    with pytest.raises(ic.InputError, match="batches is a list_iterator, which can be read once; pass a list"):
        Watch(iter(BATCHES), None, 1, {})
    with pytest.raises(ic.InputError, match="every=0 measures never"):
        Watch(BATCHES, None, 0, {})
    net, other = distributed.network(), distributed.network()
    dial = Dial(blocks(net), 0.5, "uniform")
    with pytest.raises(ic.InputError, match="no optimizer of this training holds the parameters of the groups"):
        dial.start(net, [sgd(other)], 0)
    optimizer = sgd(net)
    dial.start(net, [optimizer, sgd(other)], 0)
    assert dial.turn(1) == 0.5
    dial.stop()
    ic.couple(optimizer, blocks(net), 0.5).remove()  # else it would be refused as coupled twice


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extended
def test_the_example_of_the_api_page_runs(tmp_path, monkeypatch, capsys):
    zoo.torchvision()
    text = (Path(__file__).parents[1] / "docs" / "api" / "integrations.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "integrations"}
    exec(compile(example, "integrations.md", "exec"), names)
    assert sorted(set(names["watch"].indices["epoch"])) == [1, 2]
