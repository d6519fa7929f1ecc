"""What importing costs and needs, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    "datasets", "jinja2", "lightning_fabric", "matplotlib", "PIL", "pyarrow", "rich", "safetensors", "sklearn",
    "scipy", "tyro", "jaxtyping", "beartype",
]  # fmt: skip


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_measuring_needs_torch_numpy_and_pandas_only(tmp_path):
    done = python(MEASURING.format(blocked=OPTIONAL), str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr


HELP = """
import sys
from iterconv.cli import main
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
import sys, iterconv
assert not {name for name in sys.modules if name.startswith("iterconv.")}, "nothing is imported before it is used"
getattr(iterconv, sys.argv[1])
"""


@pytest.mark.parametrize("name", ["coupling", "lipschitz", "audit", "__version__"])
def test_a_name_is_there_without_another_having_been_used(name):
    done = python(EVERY_NAME, name)
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
