import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest

from iterconv import InputError
from iterconv.studies import catalogue, workers
from iterconv.studies.catalogue import Architecture, Scale, estimated_seconds, find_scale, find_studies
from iterconv.studies.reproduce import duration, reproduce, unfinished, unique_runs
from iterconv.studies.tables import curve_table, history_table, index_table, run_table
from iterconv.training.config import RunConfig

BASE = RunConfig(blocks=2, stages=2, epochs=2, samples=100)
TINY = Scale(
    name="tiny",
    summary="for tests",
    architectures=(Architecture(label="two stages of 2 blocks", base=BASE, widths=(2, 3)),),
    seeds=(0,),
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(catalogue.SCALES, "tiny", TINY)
    return TINY


def test_quick_trains_what_the_issue_asks_for():
    quick = find_scale("quick")
    runs = unique_runs(find_studies(()), quick)
    three = [run for run in runs if run.stages == 3]
    one = [run for run in runs if run.stages == 1]
    assert {(r.blocks, r.width) for r in three} == {(5, 8)} and {(r.blocks, r.width) for r in one} == {
        (16, 8),
        (16, 16),
    }
    assert len(three) == 3 * 5 * 3 and len(one) == 2 * 5 * 3
    assert {r.data for r in runs} == {"digits"} and {r.seed for r in runs} == {0, 1, 2}
    assert {(r.init, r.coupling) for r in three if r.residual == "proper"} == set(catalogue.CONDITIONS)


def test_paper_scale_has_the_texts_numbers():
    runs = unique_runs(find_studies(("fig3",)), find_scale("paper"))
    assert len(runs) == 5 * 4 * 6
    assert {(r.blocks, r.width) for r in runs} == {(16, 8), (16, 16), (16, 32), (16, 64)}
    assert all(r.resolved().epochs == 400 and r.stages == 3 for r in runs)


def test_runs_that_studies_share_are_done_once():
    quick = find_scale("quick")
    assert len(unique_runs(find_studies(("fig2", "fig3", "fig7")), quick)) == len(
        find_studies(("fig3",))[0].runs(quick)
    )


def test_unknown_names():
    with pytest.raises(InputError, match="no study 'fig99'.*fig2"):
        find_studies(("fig99",))
    with pytest.raises(InputError, match="no scale 'huge'.*quick"):
        find_scale("huge")
    assert [study.name for study in find_studies(("fig7", "fig2"))] == ["fig2", "fig7"]


def test_estimates_grow_with_the_work():
    base = estimated_seconds(RunConfig(width=8))
    for more in ({"width": 16}, {"epochs": 60}, {"blocks": 32}, {"residual": "proper"}, {"stages": 3}):
        assert estimated_seconds(RunConfig(**{"width": 8, **more})) > base
    assert duration([RunConfig()] * 100, 1).endswith(("min", "h"))


def collect(configs, root, stop=None, count=2):
    epochs, finished = [], []
    tally = workers.run_all(
        configs,
        root,
        workers=count,
        on_epoch=lambda run: epochs.append(run.name),
        on_finished=lambda run: finished.append(run.name),
        stop=stop or threading.Event(),
    )
    return tally, epochs, finished


def test_side_by_side_equals_one_by_one_and_failures_stop_nothing(tmp_path):
    good = [replace(BASE, width=2, seed=seed) for seed in (0, 1)]
    bad = replace(BASE, width=2, lr=1e30)
    tally, epochs, finished = collect([good[0], bad, good[1]], tmp_path / "both")
    assert sorted(finished) == sorted(run.name for run in good) and tally.finished == 2
    assert list(tally.failed) == [bad.name] and "lower --lr" in tally.failed[bad.name]
    assert epochs.count(good[0].name) == 2
    collect(good[:1], tmp_path / "one", count=1)
    files = [tmp_path / place / good[0].name / "best.safetensors" for place in ("both", "one")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_stopping_saves_and_the_next_call_goes_on(tmp_path):
    run = replace(BASE, width=4, epochs=300)
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        workers.run_all(
            [run], tmp_path, workers=1, on_epoch=lambda r: stop.set(), on_finished=lambda r: None, stop=stop
        )
    assert (tmp_path / run.name / "checkpoint.pt").exists()
    assert not (tmp_path / run.name / "result.json").exists()


def test_stopping_with_runs_still_waiting_ends(tmp_path):
    queued = [replace(BASE, width=2, epochs=300, seed=seed) for seed in range(6)]
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        workers.run_all(
            queued, tmp_path, workers=1, on_epoch=lambda r: stop.set(), on_finished=lambda r: None, stop=stop
        )
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 1


def test_a_killed_worker_is_replaced(tmp_path):
    run = replace(BASE, width=4, epochs=60)
    killed = []

    def kill_once(_):
        if not killed:
            children = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "spawn_main"], capture_output=True, text=True
            )
            killed.append(int(children.stdout.split()[0]))
            os.kill(killed[0], signal.SIGKILL)

    finished = []
    workers.run_all([run], tmp_path, workers=1, on_epoch=kill_once, on_finished=finished.append, stop=threading.Event())
    assert killed and [r.name for r in finished] == [run.name]


def test_workers_save_and_leave_when_the_main_process_is_killed(tmp_path):
    command = [sys.executable, "-m", "iterconv.cli", "reproduce", "fig4", "--workers", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait_for(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def children(pid):
        found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
        return [int(child) for child in found.split()]

    def alive(pid):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
        return state.strip() and state[0] != "Z"  # nobody may be there to collect a dead orphan

    wait_for(lambda: list(tmp_path.glob("*/history.csv")))
    workers_before = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers_before))
    assert list(tmp_path.glob("*/checkpoint.pt"))


def test_reproduce_end_to_end(tmp_path, tiny, capsys):
    assert reproduce(("fig2", "fig7"), "tiny", tmp_path, 2, threading.Event()) == 0
    page = (tmp_path / "report-tiny" / "index.html").read_text()
    assert page.count("<svg") == 3 and "iterconv reproduce fig7 --scale tiny" in page
    fetched = ('src="', 'href="http', "@import", "url(http")
    assert not any(word in page for word in fetched), "needs nothing else"
    names = {path.name for path in (tmp_path / "report-tiny").iterdir()}
    assert {"fig2-1-width2.png", "fig2-1-width2.svg", "fig7-1.png", "fig7-runs.csv", "fig7-summary.csv"} <= names
    runs = unique_runs(find_studies(("fig7",)), tiny)
    assert unfinished(find_studies(("fig7",)), tiny, tmp_path) == []
    table = run_table(runs, tmp_path)
    assert len(table) == 10 and table["test_error"].between(0, 1).all()
    assert table[table.coupling == 1]["effective"].eq(table[table.coupling == 1]["tied"]).all()
    assert set(index_table(runs, tmp_path)["stage"]) == {0, 1, "mean"}
    assert len(history_table(runs, tmp_path)) == 20
    assert len(curve_table(runs, tmp_path)) == 10 * 2 * (2 + 2 + 17) * 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.safetensors")}
    assert reproduce(("fig2", "fig7"), "tiny", tmp_path, 2, threading.Event()) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.safetensors")}
    capsys.readouterr()


def test_a_report_on_nothing_is_refused(tmp_path, tiny):
    from iterconv.report import render

    with pytest.raises(InputError, match="no run of scale 'tiny' is finished"):
        render(find_studies(()), tiny, tmp_path)
    assert run_table([BASE], tmp_path).empty and curve_table([BASE], tmp_path).empty


def test_ctrl_c_on_the_command_line_saves_and_tells_how_to_go_on(tmp_path):
    command = [
        sys.executable,
        "-m",
        "iterconv.cli",
        "train",
        "--width",
        "8",
        "--epochs",
        "500",
        "--out",
        str(tmp_path / "x"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "x" / "history.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors and "Traceback" not in errors
    assert (tmp_path / "x" / "checkpoint.pt").exists()
    assert len(pd.read_csv(tmp_path / "x" / "history.csv")) >= 1
