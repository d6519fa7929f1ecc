"""Folders for the tests on clusters, and a sweep of twelve runs that one process does here."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps import Launcher

SWEEP = """\
data: digits
width: 8
blocks: 2
stages: 2
epochs: 8
coupling: [0.0, 0.5]
seed: [0, 1, 2, 3, 4, 5]
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Have a folder that other users may enter, with a path that is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="ic"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the sweep down."""
    path = tmp_path_factory.mktemp("sweep") / "twelve.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="session")
def done_here(sweep_file: Path) -> Path:
    """Do the sweep in one process on this machine."""
    root = sweep_file.parent / "here"
    launcher = Launcher(sweep_file, root, "--workers", "1")
    launcher.start()
    assert launcher.wait(1200) == 0, launcher.output()
    return root
