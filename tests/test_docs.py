"""The pages of docs/: their Python runs, their commands can be given, and what they list is what there is."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from iterconv.cli.main import COMMANDS, main
from iterconv.cli.parsing import EXAMPLES, parse

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
sys.path.insert(0, str(ROOT / "docs" / "site"))
from decisions import collect, to_markdown  # noqa: E402


def blocks(page, language):
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """The words after `iterconv` of every command in the blocks of a page."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("iterconv ")]
    return [shlex.split(line.split(" > ")[0], comments=True)[1:] for line in lines]


# The examples of these are run in test_readme.py and test_studies.py, which also look at what came out.
ELSEWHERE = ("any-model.md", "extending.md")
WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and page.name not in ELSEWHERE]


@pytest.mark.medium
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    assert "ic" in names


def test_every_explaining_page_has_an_example():
    assert {page.stem for page in WITH_PYTHON} >= {
        "five-minutes",
        "ten-lines",
        "indices",
        "coupling",
        "constraint",
    }


WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_every_command_of_a_page_can_be_given(page):
    for words in commands(page):
        if "COMMAND" not in words:
            assert isinstance(parse(COMMANDS, words), COMMANDS[words[0]]), words


@pytest.mark.extended
@pytest.mark.medium
def test_the_commands_of_the_first_five_minutes_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = commands(ROOT / "docs" / "five-minutes.md")
    assert [words[0] for words in found] == ["train", "measure", "plan", "measure"]
    for words in found:
        assert main(words) == 0, words
    assert (tmp_path / "runs/first/report-labels.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert (
        "swap" not in printed and "bound" in printed and "the model of 3 blocks is in runs/small.safetensors" in printed
    )


def test_the_page_of_the_command_line_lists_every_command_and_exit_code():
    text = (ROOT / "docs" / "command-line.md").read_text()
    rows = [set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)), {*re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}]
    assert rows == [
        {*COMMANDS},
        {*re.findall(r"\b(\d+)\b", main.__doc__.split("The exit code:")[1].split("Raises")[0])},
    ]


def test_every_command_has_two_examples_that_can_be_given():
    assert {*EXAMPLES} == {*COMMANDS}
    for name, text in EXAMPLES.items():
        lines = [line.strip() for line in text.splitlines()]
        assert len(lines) == 2 and len({*lines}) == 2
        for line in lines:
            assert isinstance(parse(COMMANDS, shlex.split(line.split(" > ")[0])[1:]), COMMANDS[name])


def test_all_decisions_are_collected(tmp_path):
    found = collect(ROOT / "src" / "iterconv")
    marks = [
        mark
        for path in (ROOT / "src" / "iterconv").rglob("*.py")
        for mark in re.findall(r"\b(Choice|Departure): ", " ".join(path.read_text().split()))
    ]
    assert len(found) == len(marks) >= 30 and {one.kind for one in found} == {"Choice", "Departure"}
    assert all(one.text.endswith(".") and len(one.text) > 20 and "\n" not in one.text for one in found)
    [page] = [one for one in found if one.place.endswith("kernels.Triangular")]
    assert page.source == "Lippl et al., Sec. D.2." and page.text.startswith("the rows of the printed kernel")


def test_a_decision_ends_where_the_next_thing_begins(tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "one.py").write_text(
        '"""Does it.\n\nSource: the paper, Sec. 3.3. Choice: one way,\nnot two | three. '
        'Departure: another.\n\nArgs: none.\n"""\n'
        "# Choice: of a comment\n# that goes on.\nX = 1\n\n\ndef f():\n    x = 2\n    '''Choice: of a name.'''\n"
    )
    found = collect(tmp_path)
    place = f"{tmp_path.name}.room.one"
    assert [(one.kind, one.text, one.place, one.source) for one in found] == [
        ("Choice", "one way, not two | three.", place, "the paper, Sec. 3.3."),
        ("Departure", "another.", place, "the paper, Sec. 3.3."),
        ("Choice", "of a name.", f"{place}.f.x", ""),
        ("Choice", "of a comment that goes on.", place, ""),
    ]
    assert "One way, not two \\| three." in to_markdown(found)
