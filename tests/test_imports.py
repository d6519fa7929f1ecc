"""What importing costs and needs, in processes of their own."""

import subprocess
import sys
import time

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
    assert not {"torch", "rich", "numpy", "pandas"} & set(sys.modules)
"""


def test_help_comes_without_torch_and_at_once():
    python(HELP)  # fills the caches of the file system
    started = time.monotonic()
    done = python(HELP)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 5, "half a second on an idle machine; this bound only catches heavy imports"
    assert "reproduce" in done.stdout


def test_every_public_name_is_there():
    import iterconv

    for name in iterconv.__all__:
        assert getattr(iterconv, name) is not None
    assert "measure" in dir(iterconv)
