"""The package as users get it: built, checked, installed into an environment of its own, and with types."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.medium, pytest.mark.extended]
ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
USE = """
import torch
import iterconv as ic

assert ic.__file__.startswith({home!r}), ic.__file__
net = ic.models.resnet(width=4, blocks=3, stages=1, in_channels=1)
report = ic.measure(net, [(torch.randn(8, 1, 8, 8), torch.arange(8))], resamples=0)
assert set(report.indices["index"]) == {{"convergence", "recurrence", "divergence"}}
"""


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files of a release, built from what git would hand on."""
    if not UV.exists():
        pytest.skip("the environment was not made by `make`, which brings uv")
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(UV, "build", "--quiet", "--out-dir", folder / "dist", source)
    return folder / "dist"


def test_the_files_of_a_release_are_whole(built):
    [wheel], [source] = built.glob("*.whl"), built.glob("*.tar.gz")
    names = run(sys.executable, "-m", "zipfile", "-l", wheel)
    assert "iterconv/py.typed" in names and "iterconv/report/template.html" in names and "tests/" not in names
    assert "tests/conftest.py" in run("tar", "tzf", source)
    pytest.importorskip("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)


def test_the_wheel_works_alone_in_an_environment_of_its_own(built, tmp_path):
    [wheel] = built.glob("*.whl")
    home = tmp_path / "home"
    run(UV, "venv", "--quiet", "--python", sys.executable, home)
    constraints = ["--constraints", ROOT / "constraints.txt"]
    links = {**os.environ, "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    install = [UV, "pip", "install", "--quiet", "--python", home / "bin/python", *constraints]
    run(*install, "torch==2.13.0", wheel, env=links)
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run(home / "bin/python", "-c", USE.format(home=str(home)), cwd=tmp_path, env=outside)
    refused = subprocess.run([home / "bin/iterconv", "--help"], capture_output=True, text=True, env=outside)
    assert refused.returncode == 2 and "pip install 'iterconv[repro]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_accept_the_example_of_the_readme(checker, tmp_path):
    pytest.importorskip(checker)
    [example, *_] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "example.py").write_text(example)
    options = ["--pythonpath", sys.executable] if checker == "pyright" else ["--check-untyped-defs"]
    run(sys.executable, "-m", checker, *options, "example.py", cwd=tmp_path)
    wrong = example.replace("strength=0.5", "strength='much'")
    assert wrong != example
    (tmp_path / "example.py").write_text(wrong)
    done = subprocess.run([sys.executable, "-m", checker, *options, "example.py"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 1, "a wrong type is found"
