"""Stacks: runs whose networks are trained side by side as one are what they would be alone, but for rounding."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from iterconv import couple, models
from iterconv.cli.main import main
from iterconv.errors import InputError
from iterconv.studies.catalogue import find_scale, find_studies
from iterconv.studies.jobs import TrainingRun
from iterconv.studies.stacks import StackRun, for_stacks, group
from iterconv.studies.study import command_of, unique_jobs
from iterconv.training import loop
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.joint import apart, join
from iterconv.training.run import complete, open_run
from iterconv.training.stack import complete_stack
from stopping import StopAfter

TINY = RunConfig(width=4, blocks=3, stages=1, epochs=3, samples=150, lr=0.02, augment=True, stack=4)
MIXED = [
    replace(TINY, seed=1, init="recurrent"),
    replace(TINY, seed=2, coupling=0.5, kernel="triangular"),
    replace(TINY, seed=3, coupling=1.0, first_coupled=1),
    replace(TINY, seed=1, coupling=1.0),
]
FILES = {"config.json", "history.csv", "best.safetensors", "report.parquet", "result.json"}


def train(runs, root, **options):
    complete_stack([RunFolder(root / run.name, run) for run in runs], root / "stack", **options)


def weights(root, run):
    return load_file(root / run.name / "best.safetensors")


def contents(root, runs):
    """The bytes of all that does not depend on the time."""
    names = sorted(FILES - {"result.json"})
    return {(run.name, name): (root / run.name / name).read_bytes() for run in runs for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    train(MIXED, root)
    return root


def make_networks(dtype=torch.float64):
    torch.manual_seed(0)
    return [models.resnet(4, 3, 1, 2, 5).to(dtype) for _ in range(3)]


def optimizer_of(network, strength):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    couple(optimizer, network.coupling_groups(), strength)
    return optimizer


def test_in_double_precision_a_stack_equals_its_networks_alone():
    stacked, alone, strengths = make_networks(), make_networks(), (0.0, 0.5, 1.0)
    joint = join(stacked)
    together, own = (
        [optimizer_of(network, strength) for network, strength in zip(networks, strengths, strict=True)]
        for networks in (stacked, alone)
    )
    for _ in range(6):
        batches = [(torch.randn(8, 2, 7, 7, dtype=torch.float64), torch.randint(5, (8,))) for _ in strengths]
        outputs = apart(joint(*(inputs for inputs, _ in batches)))
        sum(F.cross_entropy(out, labels) for out, (_, labels) in zip(outputs, batches, strict=True)).backward()
        for network, optimizer, output, (inputs, labels) in zip(alone, own, outputs, batches, strict=True):
            expected = network(inputs)
            assert torch.allclose(output, expected, rtol=0, atol=1e-10)
            F.cross_entropy(expected, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        for optimizer in together:
            optimizer.step()
            optimizer.zero_grad()
    for network, expected in zip(stacked, alone, strict=True):
        state = expected.state_dict()
        assert state["head.bn.num_batches_tracked"] == 6
        for name, tensor in network.state_dict().items():
            assert torch.allclose(tensor, state[name], rtol=0, atol=1e-10), name


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(InputError, match="2 stages can't be joined"):
        join([models.resnet(4, 2, 2) for _ in range(2)])
    with pytest.raises(InputError, match="can't be joined; train one after another"):
        join([models.resnet(4, 2, 1, residual="proper") for _ in range(2)])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [4, 8])
def test_a_network_of_nan_leaves_the_others_as_they_are(precision, width):
    torch.manual_seed(0)
    networks = [models.resnet(width, 2, 1, 1, 5) for _ in range(4)]
    inputs = [torch.randn(16, 1, 9, 9) for _ in networks]

    def step():
        for network in networks:
            network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            outputs = apart(join(networks)(*inputs))
        sum(out.float().square().mean() for out in outputs).backward()
        gradients = [parameter.grad.clone() for network in networks for parameter in network.parameters()]
        return [out.detach() for out in outputs], gradients

    outputs, gradients = step()
    for parameter in networks[1].parameters():
        torch.nn.init.constant_(parameter, math.nan)
    others, changed = step()
    count = len(gradients) // len(networks)
    for position in (0, 2, 3):
        assert torch.equal(others[position], outputs[position])
        own = slice(position * count, (position + 1) * count)
        assert all(torch.equal(a, b) for a, b in zip(gradients[own], changed[own], strict=True))
    assert others[1].isnan().all()


@pytest.mark.medium
def test_each_run_of_a_stack_is_a_run_like_any_other(whole, tmp_path):
    assert {path.name for path in whole.iterdir()} == {run.name for run in MIXED}, "the stack's folder is gone"
    for run in MIXED:
        assert {path.name for path in (whole / run.name).iterdir()} - {".lock"} == FILES
        alone = complete(run, tmp_path / run.name)
        result = json.loads((whole / run.name / "result.json").read_text())
        assert (result["stack"], alone["stack"]) == (4, 1)
        assert result["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)
        ours, theirs = (pd.read_csv(root / run.name / "history.csv") for root in (whole, tmp_path))
        assert ours.epoch.tolist() == [1, 2, 3] and ours.lr.tolist() == theirs.lr.tolist()
        assert ours.train_loss.tolist() == pytest.approx(theirs.train_loss.tolist(), rel=1e-4)
        state, expected = weights(whole, run), weights(tmp_path, run)
        assert all(torch.allclose(state[name], expected[name], rtol=1e-3, atol=1e-4) for name in state)
        assert complete(run, whole / run.name)["test_error"] == result["test_error"], "it is finished"
        network, dataset, _ = open_run(whole / run.name)
        assert network(dataset.normalise(dataset.test.images[:2])).shape == (2, 10)
    tied = [weights(whole, MIXED[2])[f"stages.0.blocks.{block}.bn2.weight"] for block in range(3)]
    assert torch.equal(tied[1], tied[2]) and not torch.equal(tied[0], tied[1])
    assert not torch.equal(weights(whole, MIXED[0])["stem.weight"], weights(whole, MIXED[1])["stem.weight"])
    assert TrainingRun(MIXED[0]).tables(whole)["runs"]["stack"].tolist() == [4]


@pytest.mark.medium
def test_stopped_anywhere_a_stack_goes_on_and_ends_with_the_same_bytes(whole, tmp_path):
    rows = []
    for steps in (2, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            train(MIXED, tmp_path, stop=StopAfter(steps))
        assert not any((tmp_path / run.name / "checkpoint.pt").exists() for run in MIXED)
    train(MIXED, tmp_path, on_epoch=lambda run, row: rows.append((run.name, row["epoch"])))
    assert rows == [(run.name, 3) for run in MIXED], "two epochs were over"
    assert contents(tmp_path, MIXED) == contents(whole, MIXED)


@pytest.mark.medium
def test_stopped_while_it_measures_a_stack_only_measures_what_is_left(whole, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr("iterconv.training.stack.conclude", lambda folder, *_, **__: measured.append(folder.path.name))
    train(MIXED, tmp_path)
    assert measured == [run.name for run in MIXED]
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        train(MIXED, tmp_path, stop=StopAfter(15 + 2 + 1))  # steps, one run's measured batches, and one of the next
    assert [RunFolder(tmp_path / run.name, run).finished for run in MIXED] == [True, False, False, False]
    train(MIXED, tmp_path, on_epoch=lambda *_: pytest.fail("trained again"))
    assert contents(tmp_path, MIXED) == contents(whole, MIXED)


KILLED = """
import json, os, signal, sys, torch
from pathlib import Path
from iterconv.training import loop
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.stack import complete_stack

loop.SAVE_EVERY = 0.0
torch.set_num_threads(1)
written, replace = [], os.replace

def killed_between_two_histories(source, target):
    replace(source, target)
    written.append(Path(target).name)
    if written.count("history.csv") == 6:  # of the second epoch, for two runs of four
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = killed_between_two_histories
root, runs = Path(sys.argv[1]), [RunConfig(**values) for values in json.loads(sys.argv[2])]
complete_stack([RunFolder(root / run.name, run) for run in runs], root / "stack")
"""


@pytest.mark.extended
@pytest.mark.medium
def test_killed_between_the_files_of_two_runs_a_stack_ends_with_the_same_bytes(whole, tmp_path):
    runs = json.dumps([run.to_dict() for run in MIXED])
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), runs])
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "stack" / "checkpoint.pt").exists()
    lengths = [len(pd.read_csv(tmp_path / run.name / "history.csv")) for run in MIXED]
    assert lengths == [2, 2, 1, 1]
    train(MIXED, tmp_path)
    assert contents(tmp_path, MIXED) == contents(whole, MIXED)


@pytest.mark.extended
@pytest.mark.medium
def test_a_run_whose_loss_becomes_nan_fails_alone(whole, tmp_path, monkeypatch):
    runs = [*MIXED[:2], replace(TINY, seed=9, lr=1e30), MIXED[3]]
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    with pytest.raises(InputError, match=f"^{runs[2].name}: the loss became (nan|inf) in epoch 1; lower --lr"):
        train(runs, tmp_path / "whole")
    left = [runs[0], runs[1], runs[3]]
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {run.name for run in left}
    for run in left:
        state, expected = weights(tmp_path / "whole", run), weights(whole, run)
        assert all(torch.allclose(state[name], expected[name], rtol=1e-3, atol=1e-4) for name in state)
    for steps in (3, 4):  # within the epoch in which it fails, and after that
        with pytest.raises(KeyboardInterrupt):
            train(runs, tmp_path / "parts", stop=StopAfter(steps))
    with pytest.raises(InputError, match=f"^{runs[2].name}: the loss became"):
        train(runs, tmp_path / "parts")
    assert contents(tmp_path / "parts", left) == contents(tmp_path / "whole", left)
    with pytest.raises(InputError, match=f"^{runs[2].name}: the loss became"):
        train(runs, tmp_path / "parts", on_epoch=lambda *_: pytest.fail("the others are finished"))


@pytest.mark.medium
def test_where_all_runs_fail_nothing_is_left(tmp_path):
    runs = [replace(run, lr=1e30) for run in MIXED[:2]]
    with pytest.raises(InputError, match="the loss became .*; digits.*the loss became"):
        train(runs, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
@pytest.mark.parametrize(
    "spoil", [lambda state: state.pop("failed"), lambda state: state["runs"].pop(MIXED[1].hash), lambda state: None]
)
def test_a_checkpoint_of_other_runs_or_steps_is_refused(tmp_path, spoil):
    with pytest.raises(KeyboardInterrupt):
        train(MIXED, tmp_path, stop=StopAfter(2))
    folder = RunFolder(tmp_path / "stack", MIXED[0])
    state = folder.load_checkpoint()
    state["runs"][MIXED[0].hash]["progress"]["batch"] += spoil(state) is None
    folder.save_checkpoint(state)
    with pytest.raises(InputError, match=r"stack/checkpoint.pt is damaged; delete it"):
        train(MIXED, tmp_path)
    assert (tmp_path / MIXED[0].name / "config.json").exists()


def test_only_a_stack_changes_the_name_of_a_run():
    single = replace(TINY, stack=1)
    assert "stack" not in single.to_dict() and TINY.to_dict()["stack"] == 4 and single.hash != TINY.hash
    for options in ({"residual": "proper"}, {"stages": 2}, {"compile": True}, {"data": "cifar10", "stages": None}):
        assert for_stacks(replace(single, **options), 4).stack == 1
        if options.get("data") is None:
            with pytest.raises(InputError, match="stack=4 is for ordinary networks of one stage"):
                replace(TINY, **options)
    wide = replace(single, width=16)
    assert for_stacks(wide, 4) == wide and for_stacks(single, 4) == TINY and for_stacks(TINY, 2) == TINY


def test_runs_are_put_into_stacks_in_their_order():
    kinds = [replace(TINY, blocks=4), TINY, replace(TINY, width=8, stack=1)]
    jobs = [TrainingRun(replace(kind, seed=seed)) for seed in range(5) for kind in kinds]
    made = group(jobs)
    stacks = [job for job in made if isinstance(job, StackRun)]
    assert [len(job.runs) for job in stacks] == [4, 4]
    assert [run.config.seed for run in stacks[0].runs] == [0, 1, 2, 3] and stacks[0].runs[3].config.blocks == 4
    assert [job for job in made if not isinstance(job, StackRun)] == [*jobs[2::3][:4], jobs[12], jobs[13], jobs[14]]
    assert made == group(jobs) and len({job.name for job in made}) == len(made)
    assert group([TrainingRun(run) for run in MIXED]) == [StackRun(tuple(map(TrainingRun, MIXED)))]


def test_studies_in_stacks_have_runs_of_other_names_where_stacks_pay():
    desk = find_scale("desk")
    [plain] = find_studies(("fig13",))
    stacked = replace(plain, stack=4)
    assert [run.stack for run in stacked.runs(desk)] == [
        4 if run.width == 8 and run.stages == 1 else 1 for run in plain.runs(desk)
    ]
    stacks = [job for job in group(unique_jobs([stacked], desk)) if isinstance(job, StackRun)]
    assert {len(job.runs) for job in stacks} == {2, 4}, "five conditions of six seeds"
    assert all(a.config.seed <= b.config.seed for job in stacks for a, b in pairwise(job.runs))
    assert command_of([stacked], desk) == "iterconv reproduce fig13 --scale desk --stack 4"


@pytest.mark.extended
@pytest.mark.medium
def test_a_sweep_in_stacks(tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(
        "width: 4\nblocks: 2\nstages: 1\nepochs: 1\nsamples: 150\nseed: [0, 1]\ncoupling: [0, 0.5]\n"
        "residual: [ordinary, proper]\n"
    )
    command = ["sweep", str(tmp_path / "grid.yaml"), "--stack", "3", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main([*command, "--dry-run"]) == 0
    assert "6 of 6 runs to do" in capsys.readouterr().out, "a stack of three, one that is left over, four others"
    assert main(command) == 0
    table = pd.read_csv(tmp_path / "out" / "grid.csv")
    assert len(table) == 8 and table.groupby("residual")["name"].nunique().to_dict() == {"ordinary": 4, "proper": 4}
    assert sorted(table["stack"].dropna()) == [1, 3, 3, 3]
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith("stack-")]
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    states = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    [stack] = [state for state in states if state["name"].startswith("stack-3-digits-ordinary")]
    assert stack["state"] == "finished" and stack["note"].startswith("run 3 of 3, epoch 1 of 1, error ")
    assert main(command) == 0
    assert "8 of 8 runs in" in capsys.readouterr().out
