"""Benchmarks and experiments find what they import: a refactor that breaks them is seen here."""

import json
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from torch.nn import functional as F

import iterconv as ic
from iterconv.data.dataset import Split

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(ROOT.glob("experiments/*.py"))


def test_there_are_scripts():
    assert {"timm_coupled", "minilm", "constrained_stages"} <= {path.stem for path in EXPERIMENTS}


@pytest.mark.medium
@pytest.mark.parametrize("path", [*EXPERIMENTS, ROOT / "benchmarks" / "overhead.py"], ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))  # as if it were called from the command line
    assert callable(runpy.run_path(str(path))["main"])


def bench(*words):
    command = [sys.executable, str(ROOT / "benchmarks"), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.extended
@pytest.mark.medium
def test_the_benchmark_prints_rows_and_knows_when_a_target_is_reached():
    done = bench("indices-memory", "--quick", "--json")  # the one row that is no time
    assert not done.returncode, done.stderr
    [row] = map(json.loads, done.stdout.splitlines())
    assert row["name"] == "indices-memory" and row["target"] == "at most 1" and row["holds"] == (row["ratio"] <= 1)
    assert row["holds"], "one activation is kept for each level of the tree"
    wrong = bench("indexes")
    assert wrong.returncode == 2 and "'indexes' is no benchmark; use indices, " in wrong.stderr


def test_a_target_is_reached_from_its_own_side():
    holds = runpy.run_path(str(ROOT / "benchmarks" / "ratios.py"))["holds"]
    assert holds(2.5, "at least 2.4") and not holds(2.3, "at least 2.4")
    assert holds(1.0, "at most 1.02") and not holds(1.1, "at most 1.02")


def test_experiments_still_describe_their_runs():
    constrained = runpy.run_path(str(ROOT / "experiments" / "constrained_stages.py"))
    assert len({run.name for _, run in constrained["runs"]()}) > 50
    coupled = runpy.run_path(str(ROOT / "experiments" / "timm_coupled.py"))
    assert len({net.name for net in coupled["nets"]()}) == 3 * 2 * 4


@pytest.mark.extended
@pytest.mark.medium
def test_the_experiment_of_coupled_networks_examines_what_it_has_trained(tmp_path, monkeypatch):
    coupled = runpy.run_path(str(ROOT / "experiments" / "timm_coupled.py"))
    digits = ic.data.load("digits", evaluation_samples=300)
    enlarged = [Split(F.pad(split.images, (10,) * 4), split.targets) for split in (digits.train, digits.test)]
    data = replace(digits, train=enlarged[0][:64], test=enlarged[1])
    monkeypatch.setattr(ic.data, "load", lambda *_, **__: data)
    net = coupled["Net"]("vit", 0.5, True, 0)
    path = net.weights(tmp_path)
    coupled["train"](net, path, threading.Event())
    row, frontiers = coupled["examine"](net, path)
    assert row["n"] == 300 and set(frontiers["mode"]) == {"drop", "share"}
    assert (frontiers.rebuilt_error - frontiers.error).abs().max() < 1e-6
