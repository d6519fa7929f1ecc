import dataclasses
import json
import math
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import iterconv as ic
from damage import denied, one_bit_flipped
from iterconv.files import ABANDONED, require_file, require_folder, to_safetensors, write_atomically


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    net = ic.models.resnet(4, 3, 2, in_channels=1)
    images = torch.randn(40, 1, 8, 8)
    return ic.measure(net, [(images, torch.arange(40) % 10)], resamples=20)


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
        refused(
            "(is not a readable report|is damaged).*; delete it and give the command", ic.Report.load, tmp_path / name
        )


def test_foreign_files(tmp_path, report):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    refused("not a readable report", ic.Report.load, tmp_path / "foreign.parquet")
    refused("no known format", report.save, tmp_path / "report.txt")
    refused("can't draw to .*No such file", report.plot, tmp_path / "nowhere" / "picture.png")
    refused("no known format", ic.Report.load, tmp_path / "report.txt")


def test_without_pyarrow_json_is_offered(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("JSON does not", report.save, tmp_path / "report.parquet")


@pytest.mark.parametrize("name", ["report.parquet", "report.json"])
def test_a_report_with_one_flipped_bit_is_never_used(report, tmp_path, name):
    report.save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for flipped in one_bit_flipped(whole, 50, whole.index(b"iterconv-seal")):
        (tmp_path / name).write_bytes(flipped)
        refused(r"is damaged \(its checksum does not match\); delete it and", ic.Report.load, tmp_path / name)


def test_reports_of_earlier_versions_carry_no_seal_and_are_read(report, tmp_path):
    values = json.loads(report._to_json())
    del values["seal"]
    (tmp_path / "old.json").write_text(json.dumps(values).replace("null", "NaN"))
    pd.testing.assert_frame_equal(ic.Report.load(tmp_path / "old.json").indices, report.indices)


def test_what_is_no_number_is_written_as_every_reader_of_json_takes_it(report, tmp_path):
    curves = report.curves.assign(value=[math.inf, -math.inf, math.nan, *report.curves.value[3:]])
    exploded = dataclasses.replace(report, curves=curves)
    for name in ("x.json", "x.parquet"):
        exploded.save(tmp_path / name)
        pd.testing.assert_frame_equal(ic.Report.load(tmp_path / name).curves, curves)
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda found: pytest.fail(found))


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda r: {"indices": r.indices.drop(columns="defined")}, "no column 'defined'"),
        (lambda r: {"indices": r.indices.assign(stage="a")}, "a stage is neither a number nor mean"),
        (lambda r: {"indices": r.indices.assign(value="much")}, "could not convert string to float: 'much'"),
        (lambda r: {"indices": r.indices.assign(defined="yes")}, "column 'defined' holds something else"),
        (lambda r: {"curves": r.curves.assign(metric=1)}, "column 'metric' holds something else"),
        (lambda r: {"curves": r.curves.drop(columns="value")}, "no column 'value'"),
    ],
)
def test_reports_that_lack_something_are_told(report, tmp_path, damage, reason):
    for name in ("x.parquet", "x.json"):
        dataclasses.replace(report, **damage(report)).save(tmp_path / name)
        refused(rf"not a readable report \({reason}\)", ic.Report.load, tmp_path / name)


def test_thousands_of_brackets(report, tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    refused("x.json is damaged; delete it", ic.Report.load, tmp_path / "x.json")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"a": [1]}).replace_schema_metadata({"iterconv": "[" * 100_000})
    parquet.write_table(table, tmp_path / "x.parquet")
    refused("not a readable report .*recursion", ic.Report.load, tmp_path / "x.parquet")


def test_what_is_not_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.parquet").mkdir()
    for name in ("pipe.json", "folder.parquet"):
        refused(f"{name} is not a file; move it away", ic.Report.load, tmp_path / name)


def test_a_file_that_may_not_be_read_is_not_called_damaged(report, tmp_path, monkeypatch):
    report.save(tmp_path / "x.parquet")
    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    refused(
        r"can't read .*x.parquet \(Permission denied\); see to its permissions", ic.Report.load, tmp_path / "x.parquet"
    )


def test_a_json_file_beyond_all_sense_is_not_read(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**40)
    refused("x.json is larger than 67108864 bytes", ic.Report.load, tmp_path / "x.json")


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_killed_processes_left_of_a_file_is_removed_when_it_is_written_again(tmp_path):
    old, new, others = (tmp_path / f".a{rest}" for rest in (".0123abcd", ".89abcdef", ".backup01"))
    for path, age in ((old, 2 * ABANDONED), (new, 0.5 * ABANDONED), (others, 2 * ABANDONED)):
        path.touch()
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    write_atomically(tmp_path / "b", b"")
    assert old.exists(), "another file's"
    write_atomically(tmp_path / "a", b"")
    assert not old.exists() and new.exists() and others.exists()


def test_trying_to_write_somewhere_makes_no_name_that_a_kill_could_leave_behind(tmp_path, monkeypatch):
    made = []
    real_open = os.open
    monkeypatch.setattr("os.open", lambda path, *rest, **more: made.append(path) or real_open(path, *rest, **more))
    require_file(tmp_path / "a")
    require_folder(tmp_path)
    assert [Path(path) for path in made] == [tmp_path] * 2, "the folder itself, in which a file without a name is made"


def test_a_picture_appears_whole_or_not_at_all(report, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    report.plot(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused("No space left on device", report.plot, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_equal_tensors_with_equal_texts_make_equal_files():
    texts = {name: name for name in "abcdefgh"}
    written = {to_safetensors({"x": torch.arange(3), "y": torch.ones(2, 2)}, **texts) for _ in range(20)}
    assert len(written) == 1


def test_a_failed_write_names_the_file_that_was_meant(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_atomically(tmp_path / "folder", b"x")
    assert error.value.filename == str(tmp_path / "folder") and os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_permissions_are_those_that_the_user_asks_for(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode
