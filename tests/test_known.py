"""The table of known data sets, and everything that reads it."""

import subprocess
import sys

import pytest

from iterconv import InputError, data
from iterconv.cli.parsing import recipes
from iterconv.data import sources
from iterconv.data.known import KNOWN


def test_the_table_tells_the_sizes_of_what_is_loaded():
    known, loaded = KNOWN["digits"].images, data.load("digits")
    assert len(loaded.train) + len(loaded.validation) == known.training and len(loaded.test) == known.test
    assert loaded.image_size == (known.size, known.size)
    assert (loaded.in_channels, loaded.classes) == (known.channels, known.classes)


def test_every_known_data_set_has_a_loader_and_is_named_by_help_and_messages(capsys):
    from iterconv.cli.main import main

    with pytest.raises(SystemExit):
        main(["data", "--help"])
    described = capsys.readouterr().out
    with pytest.raises(InputError) as unknown:
        data.load("nothing-like-it")
    for name in KNOWN:
        assert (
            name in sources.SOURCES and name in described and name in recipes("digits") and name in str(unknown.value)
        )


def test_without_the_hub_the_folders_of_all_its_data_sets_are_named(monkeypatch):
    def unreachable(_):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.delenv("ITERCONV_DATA", raising=False)
    with pytest.raises(InputError, match="ITERCONV_DATA to a folder that holds mnist/, cifar10/, cifar100/$"):
        data.load("cifar10")


def test_an_epoch_costs_what_its_pixels_do():
    assert KNOWN["digits"].epoch_cost == 1
    assert KNOWN["cifar10"].epoch_cost == pytest.approx(50_000 * 32 * 32 / (1438 * 8 * 8))
    assert KNOWN["digitclutter-3"].epoch_cost == 2 * KNOWN["cifar10"].epoch_cost


def test_the_table_needs_no_torch():
    code = "import sys; from iterconv.data.known import KNOWN; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE).returncode == 0
