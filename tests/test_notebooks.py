"""The notebooks of docs/ run from top to bottom, and what they show is what is kept."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "site"))
import nbformat  # noqa: E402
from notebooks import NOTEBOOKS, execute  # noqa: E402

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("default")]


def shape_of(notebook):
    """The kinds of the outputs of every cell, without their numbers."""
    kinds = [[sorted(output.get("data", {"text": ""})) for output in cell.outputs] for cell in code(notebook)]
    return [sorted(map(str, each)) for each in kinds]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.extended
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_kept(path):
    kept = nbformat.read(path, as_version=4)
    executed = execute(path)
    assert [cell.source for cell in code(executed)] == [cell.source for cell in code(kept)]
    assert shape_of(executed) == shape_of(kept)
    assert sum("image/png" in str(kinds) for kinds in shape_of(kept)) >= 1
    assert path.stat().st_size < 300_000


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["couple-training", "measure-timm", "read-study"]
