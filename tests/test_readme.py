import re
import shlex
from pathlib import Path

import pytest

import zoo
from iterconv.cli.main import COMMANDS, main
from iterconv.cli.parsing import parse

pytestmark = pytest.mark.medium

README = (Path(__file__).parents[1] / "README.md").read_text()
CONTRIBUTING = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "convergence" in capsys.readouterr().out


def test_the_examples_for_any_model_run(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "any-model.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 7
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in examples:
        exec(compile(example, "any-model.md", "exec"), names)
    assert len(names["smaller"]) == 6 and len(names["plan"].frontier) == 5 and len(names["table"]) == 5


def test_the_examples_of_a_figure_and_of_a_page_run(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "report.md").read_text()
    monkeypatch.chdir(tmp_path)
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(example, "report.md", "exec"), {"__name__": "report"})
    assert (tmp_path / "fig2.pdf").stat().st_size > 10_000
    assert "2 networks, with 2 seeds in each condition" in capsys.readouterr().out
    assert "How alike are my blocks?" in (tmp_path / "similarity.html").read_text()


EXTENDING = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


SECTIONS = re.findall(r"^## (.*)$", EXTENDING, re.MULTILINE)


@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in ("A study", "An engine")])
def test_every_example_of_a_new_member_runs_by_itself(section, registries, tmp_path, monkeypatch):
    [text] = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", EXTENDING, re.MULTILINE | re.DOTALL)
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert example.count("\n") < 30
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "extending.md", "exec"), {"__name__": "extending"})
    assert all((tmp_path / name).stat().st_size > 10_000 for name in re.findall(r"(\w+\.png)", example))


def test_every_file_that_it_names_is_there():
    root = Path(__file__).parents[1]
    order = CONTRIBUTING.split("## Read the code")[1].split("\n## ")[0]
    names = re.findall(r"`([\w/]+\.(?:py|cff)|[\w/]+/)`", order)
    assert len(names) > 10, "the pattern is that of the reading order"
    for name in names:
        assert (root / "src" / "iterconv" / name).exists() or (root / name).exists(), name
    for picture in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (root / picture).exists(), picture


def commands():
    """Every `iterconv ...` of the README, in code blocks and in running text, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("iterconv ")]
    inline = [
        " ".join(text.split())
        for text in re.findall(r"`(iterconv [^`]*)`", re.sub(r"```.*?```", "", README, flags=re.S))
    ]
    words = [shlex.split(line, comments=True)[1:] for line in [*lines, *inline]]
    return [line for line in words if len(line) > 1]  # `iterconv plan` alone is a name


def test_every_command_can_be_given(capsys):
    found = commands()
    assert {line[0] for line in found} >= {"measure", "claims", "reproduce"}
    for line in found:
        assert isinstance(parse(COMMANDS, line), COMMANDS[line[0]]), line
    [listing] = [line for line in found if "--list" in line]
    assert main(listing) == 0 and capsys.readouterr().out


@pytest.mark.extended
def test_the_verdicts_that_it_names_are_printed(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    [line] = [line for line in commands() if line[0] == "claims"]
    assert main(line) == 0 and "contradicted" in capsys.readouterr().out


def test_the_first_command_says_how_to_go_without_the_network(capsys, monkeypatch):
    zoo.timm_model("resnet18")  # skips where the extra is missing
    line, *_ = [line for line in commands() if "timm:resnet50" in line]
    monkeypatch.setattr("iterconv.data.hub._reachable", lambda *_: False)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    assert main(line) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("iterconv: can't load weights of resnet50") and "pass --weights none for random" in last
