"""`iterconv exits`, with input that fits and input that does not."""

import sys

import pandas as pd
import pytest

import iterconv as ic
from commands import refused
from iterconv.cli.main import main

MODULE = """
import torch
import iterconv as ic

def small():
    torch.manual_seed(0)
    return ic.models.resnet(4, 3, 1, in_channels=1)
"""
WORDS = ["exits", "exits_own:small", "--data", "digits", "--examples", "60"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "exits_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("exits_own", None)


@pytest.mark.medium
def test_exits_prints_draws_and_saves(here, capsys):
    assert main([*WORDS, "--batch-size", "20", "--rules", "kl", "residual", "--resamples", "50"]) == 0
    printed = capsys.readouterr().out
    assert "search_error" in printed and "residual" in printed and "confidence" not in printed
    import exits_own

    digits = ic.data.load("digits", evaluation_samples=60)
    batches = digits.batches(digits.test, 20)
    found = ic.Exits.load("exits_own-small-exits-labels.json", exits_own.small())
    direct = ic.exits(exits_own.small(), batches, rules=["kl", "residual"], resamples=50)
    pd.testing.assert_frame_equal(direct.frontier, found.frontier)
    assert (here / "exits_own-small-exits-labels.png").stat().st_size > 10_000
    one = refused(capsys, *WORDS, "--batch-size", "60")
    assert "--batch-size 60 makes one batch of all examples, which can't be halved" in one


@pytest.mark.parametrize(
    "arguments, says",
    [  # These are refused before the model is opened, which is not there.
        (["--out", "x.csv"], "x.csv does not name exits; let it end in .json"),
        (["--out", "/proc/x.json"], "can't write to /proc/x.json"),
        (["--resamples", "-1"], "--resamples -1 is too small; use 0 or more"),
        (["--rules"], "--rules lacks its value"),
    ],
)
def test_bad_input_gets_one_line(capsys, arguments, says):
    assert says in refused(capsys, "exits", "timm:no", *arguments)
