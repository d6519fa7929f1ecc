"""What all tests share: one thread, a cache of their own, matplotlib without windows."""

import itertools
import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "agg")
torch.set_num_threads(1)
CACHES = itertools.count()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    # Not by `mktemp`, which would list the folders of all earlier tests, and make one that most tests don't need.
    monkeypatch.setenv("ITERCONV_CACHE", str(tmp_path_factory.getbasetemp() / "caches" / str(next(CACHES))))
    monkeypatch.delenv("ITERCONV_DATA", raising=False)


@pytest.fixture
def shared_data():
    """The real data sets beside the checkout, where they are."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}")
    return folder


@pytest.fixture
def registries():
    """The registries, which forget what a test has registered."""
    import iterconv as ic
    from iterconv.data.sources import SOURCES
    from iterconv.zoo.open_model import KINDS

    found = (ic.paths.FAMILIES, ic.indices.INDICES, ic.coupling.KERNELS, ic.controls.CONTROLS, SOURCES, KINDS)
    before = [dict(registry) for registry in found]
    yield
    for registry, members in zip(found, before, strict=True):
        registry.clear()
        registry.update(members)
