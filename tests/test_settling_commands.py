"""`iterconv settle` and `iterconv depth`, with input that fits and input that does not."""

import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

import iterconv as ic
from commands import refused
from iterconv.cli.main import COMMANDS, main
from iterconv.cli.parsing import parse

MODULE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, z):
        return z + self.branch(z)

class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(64, 16), Block(), nn.Linear(16, 10)

    def forward(self, x):
        z = self.stem(x.flatten(1))
        for _ in range(4):
            z = self.block(z)
        return self.head(z)

def alone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *(Block() for _ in range(4)), nn.Linear(16, 10))

def tied():
    torch.manual_seed(0)
    return Loop()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "settling_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("settling_own", None)


DIGITS = ["--data", "digits", "--examples", "60"]


@pytest.mark.medium
def test_settle_prints_draws_and_saves(here, capsys):
    assert main(["settle", "settling_own:alone", *DIGITS, "--steps", "12", "--span", "1", "3"]) == 0
    printed = capsys.readouterr().out
    assert "agreement" in printed and "diverges" in printed and "stays right (n = 60 examples)" in printed
    assert "finite-time Lyapunov exponent" in printed and "share their weights" not in printed
    found = ic.Settling.load("settling_own-alone-settling-labels.parquet")
    assert found.options["span"] == [1, 3] and len(found.examples) == 60
    assert (here / "settling_own-alone-settling-labels.png").stat().st_size > 10_000
    import settling_own

    digits = ic.data.load("digits", evaluation_samples=60)
    direct = ic.settle(settling_own.alone(), digits.batches(digits.test, 64), steps=12, span=(1, 3))
    pd.testing.assert_frame_equal(direct.steps, found.steps)


@pytest.mark.medium
def test_a_tied_block_is_told(here, capsys):
    words = ["settling_own:tied", *DIGITS]
    assert main(["settle", *words, "--steps", "9", "--no-growth", "--out", "s.json", "--against", "predictions"]) == 0
    printed = capsys.readouterr().out
    assert "the blocks of stage 1 share their weights" in printed and "Lyapunov" not in printed
    assert ic.Settling.load("s.json").steps.error[0] == 0
    assert main(["measure", *words, "--resamples", "0", "--out", "m.json"]) == 0
    assert "a Recurrence Index of 1 there is by construction" in capsys.readouterr().out
    assert ic.Report.load("m.json").options["shared_weights"] == [0]


@pytest.mark.medium
def test_depth_prints_draws_and_saves(here, capsys):
    assert main(["depth", "settling_own:alone", *DIGITS, "--extra-evaluations", "3", "--out", "d.json"]) == 0
    printed = capsys.readouterr().out
    assert "trained depth 4, best depth" in printed and "(n = 60)" in printed
    found = ic.Depth.load("d.json")
    assert found.curve.depth.tolist() == [1, 2, 3, 4, 5, 6, 7] and len(found.examples) == 60
    assert (here / "d.png").stat().st_size > 10_000
    assert main(["depth", "settling_own:alone", *DIGITS]) == 0
    assert (here / "settling_own-alone-depth-labels.parquet").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [  # These are refused before the model is opened, which is not there.
        (["settle", "timm:no", "--steps", "0"], "--steps 0 is too few to see where the state goes; use 4 or more"),
        (["settle", "timm:no", "--stage", "-1"], "--stage -1 is too small; use 0 or more"),
        (["settle", "timm:no", "--span", "2", "2"], "--span (2, 2) holds no block; use (start, end) with start < end"),
        (["settle", "timm:no", "--tolerance", "2"], "--tolerance 2.0 is not in (0, 1)"),
        (["settle", "timm:no", "--out", "x.csv"], "x.csv has no known format; end the name in .parquet or .json"),
        (["settle", "timm:no", "--out", "/proc/x.json"], "can't write to /proc/x.json"),
        (["settle", "no-run"], "there is no run no-run; pass the folder of a run"),
        (["depth", "timm:no", "--extra-evaluations", "-1"], "--extra-evaluations -1 is too small; use 0 or more"),
        (["depth", "timm:no", "--out", "x"], "x has no known format"),
        (["dept", "runs/x"], "there is no command 'dept'; did you mean 'depth'?"),
    ],
)
def test_bad_input_gets_one_line(capsys, arguments, says):
    assert says in refused(capsys, *arguments)


@pytest.mark.medium
def test_spans_and_stages_of_the_model_are_checked_before_the_work(here, capsys):
    words = ["settle", "settling_own:alone", *DIGITS]
    assert "--span (3, 6) ends behind the 4 blocks of the stage" in refused(capsys, *words, "--span", "3", "6")
    assert "--stage 1 is not there; stages are numbered from 0 to 0" in refused(capsys, *words, "--stage", "1")


@pytest.mark.parametrize("words", [["--span", "1"], ["--span", "1", "x"], ["--steps", "many"], ["--no-growt"]])
def test_words_that_cannot_be_parsed(capsys, words):
    assert main(["settle", "timm:no", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and words[0] in captured.err and not captured.out


@pytest.mark.medium
def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "settling.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "settling.md", "exec"), names)
    assert len(names["own"]) == 100 and names["settling"].shares()["settles"] == 1
    assert (tmp_path / "settling.parquet").exists() and (tmp_path / "settling.png").exists()
    commands = re.findall(r"^iterconv .*$", text, re.MULTILINE)
    for command in commands:
        parse(COMMANDS, shlex.split(command)[1:])
