"""Benchmarks and experiments find what they import: a refactor that breaks them is seen here."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("experiments/*.py")])


def test_there_are_scripts():
    assert {"speed", "foreign", "timm_coupled", "minilm", "constrained_stages"} <= {path.stem for path in SCRIPTS}


@pytest.mark.medium
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)  # as where it is run: the benchmarks share a function
    assert callable(runpy.run_path(str(path))["main"])


def test_experiments_still_describe_their_runs():
    constrained = runpy.run_path(str(ROOT / "experiments" / "constrained_stages.py"))
    assert len({run.name for _, run in constrained["runs"]()}) > 50
    coupled = runpy.run_path(str(ROOT / "experiments" / "timm_coupled.py"))
    assert len({net.name for net in coupled["nets"]()}) == 3 * 2 * 4
