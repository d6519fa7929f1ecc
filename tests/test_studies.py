import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from damage import denied
from iterconv import InputError
from iterconv.claims.verdicts import judge_all
from iterconv.cli.interruption import interruptible
from iterconv.cli.main import main
from iterconv.cli.studies import dry_run, list_studies, reproduce, write_report
from iterconv.data import sources
from iterconv.data.dataset import Split
from iterconv.data.sources import Source
from iterconv.models.toy import forward_model, iterative_algorithm
from iterconv.studies import catalogue
from iterconv.studies.catalogue import COUPLED, STUDIES, find_scale, find_studies
from iterconv.studies.cost import in_words
from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.jobs import TrainingRun
from iterconv.studies.runs import find_unfinished, gather
from iterconv.studies.study import CONDITIONS, Scale, Setting, unique_jobs
from iterconv.studies.tables import Tables
from iterconv.studies.toy_runs import TRACED, ToyRun, perturb, toy_runs
from iterconv.training.config import RunConfig

pytestmark = pytest.mark.medium

BASE = RunConfig(blocks=2, stages=2, epochs=2, samples=100, evaluation_samples=60)
CLUTTER = replace(BASE, data="clutter", blocks=2, epochs=1, evaluation_samples=40)
TINY = Scale(name="tiny", summary="for tests")
TWO_STAGES = Setting(label="two stages of 2 blocks", base=BASE, widths=(2, 3), seeds=(0,))
THREE_BLOCKS = Setting(label="three blocks", base=replace(BASE, blocks=3, stages=1), widths=(2,), seeds=(0,))
TINY_SETTINGS = {
    **dict.fromkeys(("fig2", "fig3", "fig4", "fig7"), TWO_STAGES),
    "fig8": THREE_BLOCKS,
    "fig13": Setting(label="clutter", base=CLUTTER, widths=(2,), seeds=(0,)),
}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(catalogue.SCALES, "tiny", TINY)
    monkeypatch.setitem(STUDIES, "fig1", replace(STUDIES["fig1"], toy_seeds={"tiny": 1}))
    for name, setting in TINY_SETTINGS.items():
        monkeypatch.setitem(STUDIES, name, replace(STUDIES[name], settings={"tiny": (setting,)}))
    return TINY


def configs(studies, scale):
    """The runs that studies need, without the toy networks."""
    return [job.config for job in unique_jobs(studies, scale) if isinstance(job, TrainingRun)]


def test_quick_is_small_and_real():
    quick = find_scale("quick")
    runs = configs(find_studies(("fig3", "fig4", "fig12")), quick)
    three = [run for run in runs if run.stages == 3]
    one = [run for run in runs if run.stages == 1]
    assert {(r.blocks, r.width) for r in three} == {(5, 8)}
    assert {(r.blocks, r.width) for r in one} == {(16, 8), (16, 16)}
    assert len(three) == 3 * 5 * 3 and len(one) == 5 * (6 + 3)
    assert {r.data for r in runs} == {"digits"} and {r.seed for r in three} == {0, 1, 2}
    assert {(r.init, r.coupling) for r in three if r.residual == "proper"} == set(CONDITIONS)


def test_desk_grows_every_condition_evenly_and_the_most_valuable_first():
    desk = find_scale("desk")
    runs = configs(find_studies((), desk), desk)
    first, *_ = [r for r in runs if r.data == "mnist"]
    ordinary = [r for r in runs if r.data == "mnist" and r.residual == "ordinary" and r.width == 8]
    assert [r.seed for r in ordinary[:30]] == [seed for seed in range(6) for _ in range(5)]
    assert {(r.init, r.coupling) for r in ordinary[:5]} == set(CONDITIONS)
    settings = list(dict.fromkeys((r.data, r.samples, r.width, r.residual) for r in runs))
    assert settings[:2] == [("digits", None, 8, "ordinary"), ("digits", None, 16, "ordinary")]
    place = settings.index(("mnist", None, 8, "ordinary"))
    assert settings[place + 1 : place + 4] == [
        ("mnist", None, 8, "improper"),
        ("mnist", None, 8, "proper"),
        ("mnist", None, 16, "ordinary"),
    ]
    assert settings[-1] == ("cifar10", 2048, 8, "ordinary")
    proper = [r for r in runs if r.residual == "proper"]
    assert {(r.init, r.coupling) for r in proper} == {CONDITIONS[0], CONDITIONS[-1]}
    whole = ("cifar10", None)  # which is trained as in the paper, but for the number of epochs
    recipes = {(r.data, r.samples): (r.blocks, r.resolved().batch_size, r.learning_rate(0)) for r in runs}
    assert recipes.pop(whole) == (16, 128, 0.1)
    assert {recipe for (data, _), recipe in recipes.items() if data != "digits"} == {(16, 32, 0.025)}
    assert [first.learning_rate(epoch) for epoch in range(3)] == [0.025, 0.025, 0.0025]
    assert first.hash == "ef022c33", "these networks are trained for hours"


@pytest.mark.parametrize("scale", [name for name in catalogue.SCALES if name != "desk"])
def test_every_study_has_runs_at_every_scale(scale):
    for study in find_studies(()):
        runs, toys = study.runs(find_scale(scale)), study.toys(find_scale(scale))
        assert bool(runs) + bool(toys) + bool(study.jobs) == 1 and len({run.hash for run in runs}) == len(runs)
        assert study.residual == {"fig4": "improper", "fig12": "proper"}.get(study.name, "ordinary")


def test_paper_scale_has_the_texts_numbers():
    paper = find_scale("paper")
    runs = configs(find_studies(("fig4", "fig12")), paper)
    assert len(runs) == 3 * 5 * 4 * 6
    assert {(r.blocks, r.width) for r in runs} == {(16, 8), (16, 16), (16, 32), (16, 64)}
    assert all(r.resolved().epochs == 400 and r.stages == 3 for r in runs)
    assert {r.data for r in configs(find_studies(("fig3",)), paper)} == {"cifar10", "digitclutter-5"}
    (fig2,) = find_studies(("fig2",))
    assert len(fig2.runs(paper)) == 6 and {(r.width, r.init, r.coupling) for r in fig2.runs(paper)} == {
        (16, "independent", 0.0)
    }
    (fig13,) = find_studies(("fig13",))
    sets = {(r.data, r.samples, r.resolved().epochs, r.resolved().stages) for r in fig13.runs(paper)}
    assert sets == {
        ("digitclutter-3", None, 400, 3),
        ("digitclutter-5", None, 400, 3),
        ("digitclutter-4", 8192, 400, 3),
        ("cifar100", None, 200, 3),
        ("cifar10", 2048, 400, 3),
        ("mnist", None, 400, 1),
    }


def test_fig8_has_every_variant():
    (fig8,) = find_studies(("fig8",))
    for scale, late in (("paper", 5), ("small", 2)):
        found = {}
        for run in fig8.runs(find_scale(scale)):
            found.setdefault((run.norm_scale, run.kernel, run.first_coupled), set()).add((run.init, run.coupling))
        assert found == {
            (1.0, "uniform", 0): set(CONDITIONS),
            (0.1, "uniform", 0): set(CONDITIONS),
            (1.0, "triangular", 0): {("recurrent", 0.5), ("recurrent", 0.9)},
            (1.0, "uniform", late): set(COUPLED),
            (0.1, "uniform", late): set(COUPLED),
        }


def test_runs_that_studies_share_are_done_once():
    quick = find_scale("quick")
    assert len(unique_jobs(find_studies(("fig2", "fig3", "fig7")), quick)) == len(
        find_studies(("fig3",))[0].runs(quick)
    )


def test_unknown_names():
    with pytest.raises(InputError, match="no study 'fig99'; did you mean 'fig8'"):
        find_studies(("fig99",))
    with pytest.raises(InputError, match="no scale 'huge'; use quick, small"):
        find_scale("huge")
    assert [study.name for study in find_studies(("fig7", "fig2"))] == ["fig2", "fig7"]


def test_estimates_grow_with_the_work():
    base = TrainingRun(RunConfig(width=8)).seconds
    for more in ({"width": 16}, {"epochs": 60}, {"blocks": 32}, {"residual": "proper"}, {"stages": 3}):
        assert TrainingRun(RunConfig(**{"width": 8, **more})).seconds > base
    assert [in_words(seconds) for seconds in (0, 119, 7200, 300_000)] == ["0 s", "119 s", "2 h", "3 days"]
    large = TrainingRun(RunConfig(data="cifar10"))
    assert large.gpu_seconds < large.seconds / 100
    assert ToyRun("residual", 0).seconds == ToyRun("recurrent", 1).seconds


def run_all(runs, root, stop=None, workers=2, on_progress=None):
    """Names of the runs whose epochs ended, of those that finished, and why others failed."""
    epochs, finished = [], []
    failed = Executor(HereEngine(workers)).run(
        [TrainingRun(run) for run in runs],
        root,
        on_progress=on_progress or (lambda job: epochs.append(job.name)),
        on_finished=lambda job: finished.append(job.name),
        stop=stop or threading.Event(),
    )
    return epochs, finished, failed


@pytest.mark.extended
def test_side_by_side_equals_one_by_one_and_failures_stop_nothing(tmp_path):
    good = [replace(BASE, width=2, seed=seed) for seed in (0, 1)]
    bad = replace(BASE, width=2, lr=1e30)
    epochs, finished, failed = run_all([good[0], bad, good[1]], tmp_path / "both")
    assert sorted(finished) == sorted(run.name for run in good)
    assert list(failed) == [bad.name] and "lower --lr" in failed[bad.name]
    assert epochs.count(good[0].name) == 2
    run_all(good[:1], tmp_path / "one", workers=1)
    files = [tmp_path / place / good[0].name / "best.safetensors" for place in ("both", "one")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.extended
def test_stopping_saves_and_the_next_call_goes_on(tmp_path):
    run = replace(BASE, width=4, epochs=300)
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run_all([run], tmp_path, stop, on_progress=lambda job: stop.set())
    assert (tmp_path / run.name / "checkpoint.pt").exists()
    assert not (tmp_path / run.name / "result.json").exists()
    history = tmp_path / run.name / "history.csv"
    before = len(pd.read_csv(history))
    again = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run_all([run], tmp_path, again, on_progress=lambda job: again.set())
    after = pd.read_csv(history)
    assert len(after) > before >= 1 and after.epoch.is_monotonic_increasing, "it went on from where it stopped"


@pytest.mark.extended
def test_stopping_with_runs_still_waiting_ends(tmp_path):
    queued = [replace(BASE, width=2, epochs=300, seed=seed) for seed in range(6)]
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run_all(queued, tmp_path, stop, workers=1, on_progress=lambda job: stop.set())
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 1


@pytest.mark.extended
def test_what_the_caller_raises_stops_the_workers(tmp_path):
    queued = [replace(BASE, width=2, epochs=300, seed=seed) for seed in range(3)]

    def fail(job):
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        run_all(queued, tmp_path, workers=1, on_progress=fail)
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 1 and not list(tmp_path.glob("*/result.json"))


@dataclass(frozen=True)
class Letter:
    """A job of the user's own."""

    name: str

    def finished(self, root):
        return (root / self.name).exists()

    def run(self, root, on_progress, stop):
        if self.name == "bad":
            raise MemoryError("no room")
        on_progress()
        (root / self.name).write_text("done")


def test_an_executor_runs_any_job_and_repeats_none(tmp_path):
    (tmp_path / "b").write_text("done before")
    progress, finished = [], []
    failed = Executor(HereEngine(1)).run(
        [Letter("a"), Letter("bad"), Letter("b")],
        tmp_path,
        on_progress=lambda job: progress.append(job.name),
        on_finished=lambda job: finished.append(job.name),
    )
    assert (progress, finished, failed) == (["a"], ["a", "b"], {"bad": "MemoryError: no room"})
    assert [(tmp_path / name).read_text() for name in "ab"] == ["done", "done before"]


@pytest.mark.parametrize("workers", [0, True])
def test_wrong_numbers_of_workers(workers):
    with pytest.raises(InputError, match=f"workers={workers} is"):
        Executor(HereEngine(workers))


@pytest.mark.extended
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

    _, finished, failed = run_all([run], tmp_path, workers=1, on_progress=kill_once)
    assert killed and finished == [run.name] and not failed


@pytest.mark.extended
def test_workers_save_and_leave_when_the_main_process_is_killed(tmp_path):
    command = [sys.executable, "-m", "iterconv", "reproduce", "fig4", "--workers", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait_for(condition):
        deadline = time.monotonic() + 240
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


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_while_workers_start_prints_no_traceback(tmp_path, number):
    command = [sys.executable, "-m", "iterconv", "reproduce", "fig4", "--workers", "2", "--out", str(tmp_path)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    started = ["pgrep", "-c", "-g", str(process.pid), "-f", "spawn_main"]
    deadline = time.monotonic() + 240
    while subprocess.run(started, capture_output=True, text=True).stdout.strip() != "2":
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    last = errors.splitlines()[-1]
    assert last.startswith("iterconv: stopped; ") and last.endswith("the same command goes on from there")


@pytest.fixture
def clutter(monkeypatch):
    """A data set with three labels an image."""

    def source(_):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (160, 1, 8, 8), generator=generator, dtype=torch.uint8)
        targets = (torch.rand(160, 10, generator=generator).argsort(1) < 3).float()
        return Source(Split(images, targets), None, 10)

    monkeypatch.setitem(sources.SOURCES, "clutter", source)


@pytest.mark.extended
def test_all_studies_make_their_figures_tables_and_claims(tmp_path, tiny, clutter, capsys):
    # In this process: workers would not know of the data set above.
    for job in unique_jobs(find_studies(()), tiny):
        if isinstance(job, ToyRun):
            perturb_quickly(job, tmp_path)
        else:
            job.run(tmp_path, lambda *news: None, threading.Event())
    assert write_report((), "tiny", tmp_path) == 0
    folder = tmp_path / "report-tiny"
    drawn = {path.stem for path in folder.glob("*.png")}
    assert drawn == {
        "fig1",
        "fig2-1-width2",
        "fig2-1-width3",
        "fig6-1-width2",
        "fig6-1-width3",
        "fig3-1",
        "fig5-1",
        "fig4-1",
        "fig7-1",
        "fig8-1-width2",
        "fig13",
    }
    page = (folder / "index.html").read_text()
    assert "sets not exactly right" in page and "The same for properly convergent" in page
    tables = gather(find_studies(()), tiny, tmp_path)
    again = Tables.load(folder / "tables")
    for name in ("runs", "indices", "curves", "history", "toy"):
        assert len(getattr(again, name)) == len(getattr(tables, name)) > 0
    assert tables.runs[tables.runs.data == "clutter"].test_exact_error.notna().all()
    assert (tables.runs[tables.runs.data == "clutter"].test_examples == 32).all(), "a fifth of 160"
    capsys.readouterr()
    assert main(["claims", str(folder / "tables")]) == 0
    from_files = capsys.readouterr().out
    assert main(["claims", "--scale", "tiny", "--out", str(tmp_path)]) == 0
    from_runs = capsys.readouterr().out
    assert [line[:12] for line in from_files.splitlines()] == [line[:12] for line in from_runs.splitlines()]
    assert all(f"\n{number}. " in from_files for number in range(1, 18))
    facts = json.loads((folder / "tables" / "facts.json").read_text())
    assert facts["command"].startswith("iterconv reproduce fig1") and facts["torch"] == torch.__version__


def perturb_quickly(run, root):
    path = run.path(root)
    path.parent.mkdir(exist_ok=True)
    perturb(run.kind, run.seed, steps=5).to_parquet(path)


def test_toy_tables_are_the_networks_perturb():
    table = perturb("exact", 0)
    measured = table[table.point < 0].set_index(["perturbation", "position"])
    z = torch.tensor([row for row in TRACED])
    traced = table[(table.point >= 0) & (table.perturbation == "early read-out") & (table.position == 3)]
    torch.testing.assert_close(
        torch.tensor(traced[["z1", "z2"]].to_numpy()).float(), iterative_algorithm(forward_model(z), 3)[-1]
    )
    assert len(measured) == 16 + 16 + 17 and measured.rmse["early read-out", 16] == measured.rmse["extra evaluation", 0]
    assert measured.distance["extra evaluation", 0] == 0
    first, second = (perturb("residual", 1, steps=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert [(run.kind, run.seed) for run in toy_runs((0, 1))][:3] == [("exact", 0), ("residual", 0), ("residual", 1)]


def test_listing_and_dry_run_train_nothing(tmp_path, tiny, capsys):
    assert list_studies(tmp_path, EngineOptions(workers=2)) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in catalogue.STUDIES) and "paper:" in listed
    assert dry_run(("fig1", "fig2"), "tiny", tmp_path, EngineOptions(workers=2)) == 0
    planned = capsys.readouterr().out
    assert planned.count("to do") == 4 + 2 + 1 and "on a GPU" in planned and "partly assumed" in planned
    assert not list(tmp_path.iterdir())


@pytest.mark.extended
def test_reproduce_end_to_end(tmp_path, tiny, capsys):
    assert reproduce(("fig2", "fig7"), "tiny", tmp_path, EngineOptions(workers=2), threading.Event()) == 0
    page = (tmp_path / "report-tiny" / "index.html").read_text()
    assert "iterconv reproduce fig7 --scale tiny" in page and "How iterative and convergent" in page
    names = {path.name for path in (tmp_path / "report-tiny").iterdir()}
    assert {"fig2-1-width2.png", "fig2-1-width2.svg", "fig7-1.png", "tables"} <= names
    assert find_unfinished(find_studies(("fig7",)), tiny, tmp_path) == []
    tables = gather(find_studies(("fig7",)), tiny, tmp_path)
    table = tables.runs
    assert len(table) == 10 and table["test_error"].between(0, 1).all()
    assert table[table.coupling == 1]["effective"].eq(table[table.coupling == 1]["tied"]).all()
    assert set(tables.indices["stage"]) == {0, 1, "mean"}
    assert len(tables.history) == 20
    assert len(tables.curves) == 10 * 2 * (2 + 2 + 17) * 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.safetensors")}
    assert reproduce(("fig2", "fig7"), "tiny", tmp_path, EngineOptions(workers=2), threading.Event()) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.safetensors")}
    capsys.readouterr()


def test_a_report_on_nothing_is_refused(tmp_path, tiny):
    with pytest.raises(InputError, match="no run of scale 'tiny' is finished"):
        write_report((), "tiny", tmp_path)
    assert Tables.collect([TrainingRun(BASE), ToyRun("exact", 0)], tmp_path).empty


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.extended)])
def test_ctrl_c_and_a_lost_terminal_save_and_tell_how_to_go_on(tmp_path, number):
    small = ["--width", "2", "--blocks", "2", "--samples", "100", "--epochs", "100000"]
    command = [sys.executable, "-m", "iterconv", "train", *small, "--out", str(tmp_path / "x")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (tmp_path / "x" / "history.csv").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors and "Traceback" not in errors
    assert (tmp_path / "x" / "checkpoint.pt").exists()
    assert len(pd.read_csv(tmp_path / "x" / "history.csv")) >= 1


def test_what_a_process_was_told_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with interruptible() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.wait(5)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with interruptible() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wait(0.1) and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


QUICK = Path(__file__).parents[1] / "results" / "quick"


@pytest.mark.parametrize(
    "name, damage, says",
    [
        ("indices.csv", lambda t: pd.concat([t, t[3:4]]), r"indices.csv has a row twice \(name .*, stage .*, index "),
        ("curves.parquet", lambda t: pd.concat([t, t[:1]]), r"curves.parquet has a row twice \(name .*, metric "),
        ("history.csv", lambda t: pd.concat([t, t[:1]]), r"history.csv has a row twice \(name .*, epoch 1"),
        ("toy.parquet", lambda t: pd.concat([t, t[:1]]), r"toy.parquet has a row twice \(kind "),
        ("runs.csv", lambda t: pd.concat([t, t[:1]]), r"runs.csv has a row twice \(name "),
        ("indices.csv", lambda t: t.assign(value="much"), r"indices.csv: .*much.*; make it again"),
        ("indices.csv", lambda t: t.assign(stage=math.inf), r"indices.csv: .*infinity.*; make it again"),
        ("curves.parquet", lambda t: t.assign(value="much"), r"curves.parquet: .*much.*; make it again"),
        ("curves.parquet", lambda t: t.assign(metric=None), r"curves.parquet: metric is not text in every row"),
        ("runs.csv", lambda t: t.drop(columns="width"), r"runs.csv lacks the column 'width'"),
        ("history.csv", lambda t: t.assign(epoch=None), r"history.csv: epoch is not a number in every row"),
    ],
)
def test_damaged_tables_are_told_in_a_line(tmp_path, name, damage, says, capsys):
    shutil.copytree(QUICK, tmp_path / "tables")
    path = tmp_path / "tables" / name
    if path.suffix == ".csv":
        damage(pd.read_csv(path)).to_csv(path, index=False)
    else:
        damage(pd.read_parquet(path)).to_parquet(path)
    assert main(["claims", str(tmp_path / "tables")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(says, line)


def test_tables_that_may_not_be_read_are_not_called_damaged(monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"can't read .*runs.csv \(Permission denied\)"):
        Tables.load(QUICK)


@pytest.mark.parametrize("scale", ["small", "quick"])
def test_stored_tables_are_read_and_written_as_they_are(tmp_path, scale):
    Tables.load(QUICK.parent / scale).save(tmp_path, {})
    for name in ("runs.csv", "indices.csv", "curves.parquet", "history.csv", "toy.parquet"):
        assert (tmp_path / name).read_bytes() == (QUICK.parent / scale / name).read_bytes()


@pytest.mark.extended
def test_columns_that_older_tables_lack_are_nan(tmp_path):
    shutil.copytree(QUICK, tmp_path / "old")
    runs = pd.read_csv(QUICK / "runs.csv")
    runs.drop(columns=["momentum", "divergence"]).to_csv(tmp_path / "old" / "runs.csv", index=False)
    old, new = Tables.load(tmp_path / "old"), Tables.load(QUICK)
    assert old.runs["momentum"].isna().all() and old.runs["divergence"].isna().all()
    assert old.curves["momentum"].isna().all() and len(old.curves) == len(new.curves)
    before, after = (
        {j.claim.number: [cell.verdict for row in j.rows for cell in row.cells] for j in judge_all(tables)}
        for tables in (new, old)
    )
    assert [number for number in before if before[number] != after[number]] == [3, 4, 5, 6, 9, 11], "which need DI"


def test_data_sets_whose_names_are_numbers(tmp_path, tiny):
    tables = Tables.load(QUICK)
    numbered = Tables(
        tables.runs.assign(data="2024"), *(getattr(tables, n) for n in ("indices", "curves", "history", "toy"))
    )
    numbered.save(tmp_path, {})
    assert set(Tables.load(tmp_path).runs["data"]) == {"2024"}


@pytest.mark.extended
def test_the_examples_of_a_study_and_an_engine_run(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
    text = text[text.index("## A study") :]
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3 and all(example.count("\n") < 30 for example in examples)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STUDIES, "depth", None)  # so that the example's is taken away again
    names = {"__name__": "__main__"}
    for example in examples:
        exec(compile(example, "extending.md", "exec"), names)
    assert len(names["jobs"]) == 4 and names["failed"] == {}
    for folder in ("runs", "elsewhere"):
        page = (tmp_path / folder / "report-quick" / "index.html").read_text()
        assert "Does coupling need depth?" in page and page.count('data-keys="{&#34;study&#34;: [&#34;depth&#34;]') >= 4
    for job in names["jobs"]:
        weights = [tmp_path / folder / job.name / "best.safetensors" for folder in ("runs", "elsewhere")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
