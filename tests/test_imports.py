"""What importing costs and needs, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import iterconv
import iterconv.errors
from iterconv.errors import require

pytestmark = pytest.mark.medium

MEASURING = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None  # importing it fails, as where it is not installed
import iterconv as ic, torch
net = ic.models.resnet(width=4, blocks=3, stages=2, in_channels=1, residual="proper", init="recurrent")
optimizer = torch.optim.SGD(net.parameters(), 0.1)
ic.couple(optimizer, net.coupling_groups(), 0.5)
report = ic.measure(net, [(torch.randn(20, 1, 8, 8), torch.arange(20) % 10)])
report.save(sys.argv[1])
assert len(ic.Report.load(sys.argv[1]).indices) == 9
ic.effective_parameter_count(net, net.coupling_groups())
ic.lipschitz.audit(net, torch.randn(2, 1, 8, 8))
ic.verify(net, net, torch.randn(2, 1, 8, 8))
"""
OPTIONAL = [
    "altair", "datasets", "jinja2", "lightning_fabric", "matplotlib", "PIL", "pyarrow", "rich", "safetensors",
    "sklearn", "scipy", "tyro", "beartype",
]  # fmt: skip


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_measuring_needs_torch_numpy_and_pandas_only(tmp_path):
    done = python(MEASURING.format(blocked=OPTIONAL), str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr


HELP = """
import sys
from iterconv.cli.main import main
try:
    main(["--help"])
finally:
    print("imported:", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_help_imports_nothing_heavy():
    done = python(HELP)
    assert done.returncode == 0, done.stderr
    told, imported = done.stdout.split("imported: ")
    assert "reproduce" in told
    assert {"iterconv", "tyro"} <= set(imported.split()), "the list is of what the help needs"
    heavy = {
        "torch",
        "rich",
        "numpy",
        "pandas",
        "scipy",
        "matplotlib",
        "datasets",
        "pyarrow",
        "sklearn",
        "transformers",
    }
    assert not heavy & set(imported.split())


EVERY_NAME = """
import sys
for name in ("coupling", "lipschitz", "audit", "__version__"):
    for module in [module for module in sys.modules if module.split(".")[0] == "iterconv"]:
        del sys.modules[module]
    import iterconv
    assert not {name for name in sys.modules if name.startswith("iterconv.")}, "nothing is imported before it is used"
    getattr(iterconv, name)
import iterconv.paths.evaluate
assert callable(iterconv.paths.evaluate), "it is the function, though its module has the same name"
assert "FAMILIES" in dir(iterconv.paths) and "Any" not in dir(iterconv.paths)
"""


def test_a_name_is_there_whether_another_has_been_used_or_not():
    done = python(EVERY_NAME)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_citations():
    import iterconv

    citation = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    assert f"version: {iterconv.__version__}\n" in citation


def test_every_public_name_is_there():
    import iterconv

    for name in iterconv.__all__:
        assert getattr(iterconv, name) is not None
    assert "measure" in dir(iterconv)


@pytest.mark.parametrize(
    "start", [["-m", "iterconv"], ["-c", "import iterconv.__main__ as m; raise SystemExit(m.main())"]]
)
@pytest.mark.parametrize("library", ["tyro", "rich"])
def test_without_extras_the_command_says_what_to_install(tmp_path, start, library):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{library!r}] = None")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    words = [sys.executable, *start, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.stderr == f"iterconv: the command line needs {library}; pip install 'iterconv[repro]'\n"
    assert done.returncode == 2 and not done.stdout


NOTHING = pd.DataFrame({"path": [()]})


@pytest.mark.parametrize(
    "library, use",
    [
        ("sklearn", lambda path: iterconv.data.load("digits")),
        ("datasets", lambda path: iterconv.data.load(path)),
        ("matplotlib", lambda path: iterconv.Plan(None, NOTHING, {}).plot()),
        ("matplotlib", lambda path: iterconv.Report(NOTHING, NOTHING, {}).plot()),
        ("pyarrow", lambda path: iterconv.Report(NOTHING, NOTHING, {}).save(path)),
    ],
)
def test_without_a_library_its_uses_say_what_to_install(tmp_path, monkeypatch, library, use):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(iterconv.InputError, match=rf"needs {library}; pip install 'iterconv\[repro\]'"):
        use(tmp_path / "x.parquet")


def test_a_library_that_is_there_but_broken_is_told_with_its_own_text(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise ImportError('libfoo.so.3: wrong ELF class')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(iterconv.InputError, match="broken can't be imported .libfoo.so.3: wrong ELF class"):
        require("broken", "a test")
