import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "convergence" in capsys.readouterr().out


def test_the_examples_for_any_model_run(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "any-model.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 5
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in examples:
        exec(compile(example, "any-model.md", "exec"), names)
    assert len(names["smaller"]) == 6 and len(names["plan"].frontier) == 5 and len(names["table"]) == 5


def test_every_file_that_it_names_is_there():
    root = Path(__file__).parents[1]
    for name in re.findall(r"`([\w/]+\.(?:py|cff)|[\w/]+/)`", README):
        assert (root / "src" / "iterconv" / name).exists() or (root / name).exists(), name
    for picture in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (root / picture).exists(), picture
