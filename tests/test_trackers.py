"""Logs of runs: every epoch once, whatever happens to the run or the tracker."""

import json
import struct
import sys
import threading
import time
import types
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest

from commands import TINY, refused
from iterconv import InputError
from iterconv.cli.main import main
from iterconv.measuring.report import Report
from iterconv.training import trackers, trainee
from iterconv.training.config import RunConfig
from iterconv.training.run import complete

pytestmark = pytest.mark.medium

RUN = RunConfig(width=4, blocks=2, epochs=5, samples=150)
ROW = ["lr", "train_loss", "train_error", "selection_loss", "selection_error"]


def stopped_after(epoch, path, log):
    """Train until an epoch is over; the checkpoint is of the step after it."""
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        complete(RUN, path, log=log, on_epoch=lambda row: stop.set() if row["epoch"] == epoch else None, stop=stop)
    return (path / "checkpoint.pt").read_bytes()


def interrupted_often(path, log):
    """A run that is stopped, killed so that it goes on from an older checkpoint, continued without a log, and ended."""
    old = stopped_after(1, path, log)
    stopped_after(3, path, log)
    (path / "checkpoint.pt").write_bytes(old)
    stopped_after(2, path, log)
    stopped_after(4, path, ())
    complete(RUN, path, log=log)
    return pd.read_csv(path / "history.csv")


class Book:
    """A tracker that keeps everything; ``fails`` tells at which epochs it is out of reach."""

    def __init__(self, logs, folder, identity):
        self.identity = identity or "first"
        self.opened.append(identity)

    def write(self, values, epoch):
        if epoch in self.fails:
            raise ConnectionError("no\nserver")
        self.pages += [(name, epoch, value) for name, value in values.items()]

    def conclude(self, values, epoch):
        if "end" in self.fails:
            raise ConnectionError("no server")
        self.end.append(values)

    def close(self, complete):
        self.closed.append(complete)


@pytest.fixture
def book(monkeypatch):
    """An empty book in the place of MLflow."""
    fresh = type("Fresh", (Book,), {"opened": [], "pages": [], "end": [], "closed": [], "fails": ()})
    monkeypatch.setitem(trackers._WRITERS, "mlflow", fresh)
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    return fresh


def pages_of(history):
    return [(name, row["epoch"], row[name]) for row in history.to_dict("records") for name in ROW]


def test_an_interrupted_run_goes_on_in_its_log_without_doubling_epochs(tmp_path, book):
    history = interrupted_often(tmp_path / "run", ("mlflow",))
    assert book.pages == pages_of(history)
    assert book.opened == ["", "first", "first", "first"] and book.closed == [False, False, False, True]
    (end,) = book.end
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert end["test_error"] == result["test_error"] and "test_exact_error" not in end


def test_indices_are_logged_where_they_are_defined(tmp_path, book, monkeypatch):
    complete(replace(RUN, epochs=1), tmp_path / "run", log=("mlflow",))
    report = Report.load(tmp_path / "run" / "report.parquet")
    defined = report.indices[report.indices.defined]
    places = [(row.index, row.stage) for row in defined.itertuples()]
    names = {f"{index}/{stage if stage == 'mean' else f'stage_{stage + 1}'}" for index, stage in places}
    assert set(book.end[0]) == names | {"test_error", "test_loss"}


def test_a_finished_run_is_logged_when_it_is_asked_for_and_once(tmp_path, book):
    result = complete(RUN, tmp_path / "run")
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert complete(RUN, tmp_path / "run", log=("mlflow", "mlflow")) == result
    assert book.pages == pages_of(pd.read_csv(tmp_path / "run" / "history.csv")) and len(book.end) == 1
    complete(RUN, tmp_path / "run", log=("mlflow",))
    assert book.opened == [""], "nothing was missing the second time"
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_a_tracker_that_is_out_of_reach_for_a_while_is_told_later(tmp_path, book):
    book.fails = (2, 3)
    complete(RUN, tmp_path / "run", log=("mlflow",), on_epoch=lambda row: setattr(book, "fails", book.fails[1:]))
    assert book.pages == pages_of(pd.read_csv(tmp_path / "run" / "history.csv"))


@pytest.mark.parametrize("fails", [(4,), ("end",)])
def test_a_tracker_that_stays_out_of_reach_ends_nothing_and_is_told_by_the_same_command(tmp_path, book, fails):
    book.fails = fails
    says = r"--log mlflow failed \(ConnectionError: no server\); the run is finished, and the same command tells what"
    with pytest.raises(InputError, match=says):
        complete(RUN, tmp_path / "run", log=("mlflow",))
    assert (tmp_path / "run" / "result.json").exists() and not book.end and book.closed == [False]
    book.fails = ()
    complete(RUN, tmp_path / "run", log=("mlflow",))
    assert book.pages == pages_of(pd.read_csv(tmp_path / "run" / "history.csv")) and len(book.end) == 1


def test_a_server_that_is_away_is_tried_twice_and_not_for_minutes(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    for name in ("MAX_RETRIES", "TIMEOUT"):  # which are set by the first log, and put back afterwards
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "")
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}")
    asked = []

    class Away(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(503)

    with HTTPServer(("127.0.0.1", 0), Away) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match="--log mlflow failed"):
            complete(RUN, tmp_path / "run", log=("mlflow",))
        server.shutdown()
    assert len(asked) == 2 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("notes", ["[]", "{", '{"mlflow": {"x": 1}}', '{"mlflow": 3}', '{"mlflow": {"epochs": "2"}}'])
def test_damaged_notes_matter_to_those_who_log_only(tmp_path, book, notes):
    complete(replace(RUN, epochs=1), tmp_path / "run", log=("mlflow",))
    (tmp_path / "run" / "logs" / "told.json").write_text(notes)
    complete(replace(RUN, epochs=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"logs/told.json is damaged; delete .*logs to begin new logs"):
        complete(replace(RUN, epochs=1), tmp_path / "run", log=("mlflow",))


def test_a_log_that_cannot_be_opened_is_told_before_anything_is_trained(tmp_path, book, monkeypatch):
    monkeypatch.setattr(book, "__init__", lambda *_: 1 / 0)
    monkeypatch.setattr("iterconv.training.run.train", lambda *_: pytest.fail("trained"))
    with pytest.raises(
        InputError, match=r"--log mlflow failed \(ZeroDivisionError: .*; leave it out, or delete .*logs"
    ):
        complete(RUN, tmp_path / "run", log=("mlflow",))
    assert not list(tmp_path.iterdir())


def test_a_run_that_leaves_its_folder_to_others_leaves_no_log_there(tmp_path, book, monkeypatch):
    monkeypatch.setattr(trainee, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        complete(RUN, tmp_path / "run", log=("mlflow",))
    assert not list(tmp_path.iterdir()) and book.closed == [False]


@pytest.mark.parametrize("name", trackers._WRITERS)
def test_without_its_library_a_tracker_says_what_to_install(capsys, tmp_path, monkeypatch, name):
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    line = refused(capsys, "train", *TINY, "--log", name, "--out", str(tmp_path / "run"))
    assert line == f"iterconv: --log {name} needs {name}; pip install 'iterconv[track]'"
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_unknown(tmp_path):
    with pytest.raises(InputError, match="log='csv' is unknown; use 'tensorboard', 'mlflow' or 'wandb'"):
        complete(RUN, tmp_path / "run", log=("csv",))


def read_tensorboard(logs):
    """Everything that is in the files; TensorBoard itself would hide what is doubled."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    pages, options = [], {}
    for path in sorted((logs / "tensorboard").iterdir()):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    options[value.tag] = value.metadata.plugin_data.content
                else:
                    pages.append((value.tag, event.step, value.simple_value))
    assert b"selection" in options["_hparams_/session_start_info"] and b"test_error" in options["_hparams_/experiment"]
    return pages


def read_mlflow(logs):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{logs}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("iterconv").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["coupling"] == "0.0"
    histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    return [(metric.key, metric.step, metric.value) for history in histories for metric in history]


def records_of(path):
    """The records of a .wandb file, which is a log in LevelDB's format: blocks of 32 KiB, with records in pieces."""
    whole, place, record = path.read_bytes(), 7, b""
    while len(whole) - place > 7:
        if 32768 - place % 32768 < 7:  # no room for a piece's header
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", whole[place : place + 7])
        record += whole[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield record
            record = b""


def read_wandb(logs):
    from wandb.proto.wandb_internal_pb2 import Record

    pages, identities = [], set()
    for path in sorted(logs.glob("wandb/offline-run-*/*.wandb")):
        deadline = time.monotonic() + 60
        while not (records := [Record.FromString(data) for data in records_of(path)]) or not records[-1].HasField(
            "exit"
        ):
            assert time.monotonic() < deadline  # a process of wandb's may still be writing
            time.sleep(0.05)
        for record in records:
            if record.HasField("run"):
                identities.add(record.run.run_id)
                options = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                assert options["coupling"] == 0
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            pages += [(name, items["_step"], value) for name, value in items.items() if name[0] != "_"]
            ends = {item.key or item.nested_key[0]: item.value_json for item in record.summary.update}
            pages += [(name, RUN.epochs, json.loads(end)) for name, end in ends.items() if name[:5] == "test_"]
    assert len(identities) == 1
    return pages


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


@pytest.mark.parametrize("name", READERS)
# What the libraries themselves warn of is no business of ours.
@pytest.mark.filterwarnings("ignore")
def test_a_tracker_holds_every_epoch_once(tmp_path, monkeypatch, name):
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "DO_NOT_TRACK": "true"}.items():
        monkeypatch.setenv(variable, value)
    history = interrupted_often(tmp_path / "run", (name,))
    pages = READERS[name](tmp_path / "run" / "logs")
    expected = pages_of(history)
    of_epochs = sorted(page for page in pages if page[0] in ROW)
    assert [page[:2] for page in of_epochs] == sorted(page[:2] for page in expected)
    assert [page[2] for page in of_epochs] == pytest.approx([page[2] for page in sorted(expected)], rel=1e-6)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    ends = {page[:2]: page[2] for page in pages if page[0].startswith("test_")}
    assert ends == pytest.approx({(key, RUN.epochs): result[key] for key in ("test_error", "test_loss")}, rel=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "nothing is written anywhere else"


def test_several_trackers_are_a_list_on_the_command_line(tmp_path, book, monkeypatch):
    monkeypatch.setitem(trackers._WRITERS, "wandb", book)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    assert main(["train", *TINY, "--log", "mlflow", "wandb", "--out", str(tmp_path / "run")]) == 0
    assert len(book.pages) == 2 * len(ROW) and len(book.end) == 2
