import builtins

import pandas as pd
import pytest
import torch

import iterconv as ic
from iterconv.reports import write_atomically


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    net = ic.models.resnet(4, 3, 2, in_channels=1)
    images = torch.randn(40, 1, 8, 8)
    return ic.measure(net, [(images, torch.arange(40) % 10)], replicates=20)


@pytest.mark.parametrize("name", ["report.parquet", "report.json", "new/folder/report.json"])
def test_round_trip(report, tmp_path, name):
    report.save(tmp_path / name)
    loaded = ic.Report.load(tmp_path / name)
    pd.testing.assert_frame_equal(loaded.curves, report.curves)
    pd.testing.assert_frame_equal(loaded.indices, report.indices)
    assert loaded.options == report.options
    assert loaded.curves.path[0] == (0,) and list(loaded.indices.stage[:4]) == [0, 1, "mean", 0]


def refused(match, call, *arguments):
    with pytest.raises(ic.InputError, match=match) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["report.parquet", "report.json"])
def test_damaged_and_missing_files(report, tmp_path, name):
    refused("there is no report", ic.Report.load, tmp_path / name)
    report.save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense", b"[1, 2]", b"{}"):
        (tmp_path / name).write_bytes(damaged)
        refused("not a readable report", ic.Report.load, tmp_path / name)


def test_foreign_files(tmp_path, report):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    refused("not a readable report", ic.Report.load, tmp_path / "foreign.parquet")
    refused("no known format", report.save, tmp_path / "report.txt")
    refused("can't draw to .*No such file", report.plot, tmp_path / "nowhere" / "picture.png")
    refused("no known format", ic.Report.load, tmp_path / "report.txt")


def test_without_pyarrow_json_is_offered(report, tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    refused("ending in .json", report.save, tmp_path / "report.parquet")


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]
