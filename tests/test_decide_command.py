"""`reproduce --decide` looks, adds seeds only where something is undecided, and goes on where it was."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from iterconv.cli import claims
from iterconv.cli.main import main
from iterconv.files import to_parquet, write_atomically
from iterconv.studies.catalogue import STUDIES
from iterconv.studies.runs import load
from iterconv.studies.study import Setting, Study, Variant
from iterconv.studies.toy_runs import COLUMNS, ToyRun
from iterconv.training.config import RunConfig

pytestmark = pytest.mark.medium


def toy_table(kind, seed, effect):
    """A toy network whose error grows by ``effect`` and luck when its last block is repeated."""
    luck = np.random.default_rng([seed, len(kind)]).standard_normal()
    grows = 0 if kind == "exact" else effect + luck
    rows = [
        {"perturbation": family, "position": position, "rmse": grows * position / 16, "distance": 16.0 - position}
        for family, position in itertools.product(("early read-out", "extra evaluation"), range(17))
    ]
    return pd.DataFrame(rows).assign(kind=kind, seed=seed, point=-1).reindex(columns=COLUMNS)


class Trainer:
    """Writes what toy networks would have come to; stops after so many of them."""

    def __init__(self):
        self.effect, self.stop_after, self.trained, self.reports = 0.0, 10**6, [], []

    def run(self, jobs, root, options, stop):
        for job in jobs:
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            assert not job.finished(root)
            write_atomically(job.path(root), to_parquet(toy_table(job.kind, job.seed, self.effect)))
            self.trained.append(job)
        return True


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(claims, "run_jobs", trainer.run)
    monkeypatch.setattr(claims, "write_report", lambda *given: trainer.reports.append(given) or 0)
    return trainer


def decide(root, *more, claim="2"):
    return main(["reproduce", "--decide", claim, "--out", str(root), *more])


def seeds_of(trainer):
    return sorted({job.seed for job in trainer.trained if job.kind == "residual"})


def test_a_clear_effect_ends_at_the_first_look(tmp_path, trainer, capsys):
    trainer.effect = 50.0
    assert decide(tmp_path) == 0
    assert seeds_of(trainer) == list(range(6)) and trainer.reports == [(("fig1",), "quick", tmp_path, 1)]
    out = capsys.readouterr().out
    assert "2a Trained nets overshoot: holds: toy problem" in out and out.endswith("undecided after 24 seeds\n")
    assert decide(tmp_path) == 0 and seeds_of(trainer) == list(range(6)), "nothing is left to do"
    # The record is beside the runs, and goes with their tables.
    assert load(tmp_path).looks[["claim", "data", "seeds", "most"]].values.tolist() == [["2", "toy", 3, 24]]
    load(tmp_path).save(tmp_path / "tables", {})
    for place in (tmp_path, tmp_path / "tables"):
        capsys.readouterr()
        assert main(["claims", str(place), "--json"]) == 0
        found = {record["part"]: record for record in map(json.loads, capsys.readouterr().out.splitlines())}
        assert found["2a"]["verdict"] == "supported" and found["2a"]["n"] == 6
        assert found["2b"]["verdict"] == "supported"
        # Claim 1 did not ask for the seeds, and keeps the three of the study.
        assert found["1a"]["n"] == 3


def test_without_an_effect_all_looks_are_taken(tmp_path, trainer, capsys):
    assert decide(tmp_path, "--budget", "8") == 0
    assert seeds_of(trainer) == list(range(8))
    looks = [line for line in capsys.readouterr().out.splitlines() if "runs to the next look" in line]
    # Two seeds, four, and eight of three trained kinds, and the one exact network.
    assert [int(line.split()[0]) for line in looks] == [7, 6, 12]


def test_an_interrupted_command_goes_on_and_its_looks_stay(tmp_path, trainer, capsys):
    trainer.stop_after = 10
    assert decide(tmp_path, "--budget", "8") == 130
    assert decide(tmp_path, "--budget", "8", "--dry-run") == 0 and len(trainer.trained) == 10
    assert capsys.readouterr().out.count("to do ") == 3
    trainer.stop_after = 10**6
    assert decide(tmp_path, "--budget", "12") == 2
    assert "claim 2 was begun with up to 8 seeds" in capsys.readouterr().err
    assert decide(tmp_path, "--budget", "8") == 0
    assert len(trainer.trained) == len({job.name for job in trainer.trained}) == 25


def test_a_budget_of_hours_ends_before_a_look_that_does_not_fit(tmp_path, trainer, capsys, monkeypatch):
    monkeypatch.setattr(claims, "machine_factor", lambda: 1.0)
    hours = 30 * ToyRun.seconds / 3600
    assert decide(tmp_path, "--budget", f"{hours:.4f}h") == 0
    assert seeds_of(trainer) == list(range(6)), "19 runs fit, and the next look has 18 more"
    assert "the next look does not fit the 0.0 h that are left" in capsys.readouterr().out
    assert decide(tmp_path, "--budget", f"{hours:.4f}h") == 0 and seeds_of(trainer) == list(range(12))


def test_dry_run_records_nothing(tmp_path, trainer, capsys):
    assert decide(tmp_path / "new", "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("toy-") == 19 and not (tmp_path / "new").exists() and not trainer.trained


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--decide", "18"], "there is no claim '18'; give a number from 1 to 17, or P1 to P6, or a part, as 4a"),
        (["--decide", "4z"], "there is no claim '4z'"),
        (["--decide", "4", "--budget", "much"], "--budget much is no budget; give 2 to 1000 seeds, or hours"),
        (["--decide", "4", "--budget", "1"], "--budget 1 is no budget"),
        (["--decide", "4", "--list"], "leave out --decide"),
        (["--budget", "12"], "--budget 12 is for --decide"),
        (["fig8", "--decide", "4"], "claim 4 is not about fig8; use fig3, fig13"),
        (["--decide", "P1", "--scale", "paper"], "nothing that claim P1 is about is trained at the scale 'paper'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, says, tmp_path, capsys, trainer):
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "new")]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.extended
def test_real_runs_are_trained_and_judged(tmp_path, monkeypatch, capsys):
    base = RunConfig(blocks=2, stages=1, epochs=1, samples=60, evaluation_samples=40)
    setting = Setting(label="tiny", base=base, widths=(2,), seeds=(0,))
    other = Setting(label="more", base=base, widths=(3,), seeds=(0,))
    monkeypatch.setitem(STUDIES, "fig3", Study(name="fig3", title="", settings={"quick": (setting, other)}))
    monkeypatch.setitem(STUDIES, "fig13", Study(name="fig13", title="", variants=(Variant(),)))
    assert main(["reproduce", "--decide", "7a", "--out", str(tmp_path), "--budget", "3", "--workers", "2"]) == 0
    runs = load(tmp_path).runs
    assert set(runs["init"]) == {"recurrent"} and set(runs["width"]) == {2, 3}
    assert set(runs["seed"]) in ({0, 1}, {0, 1, 2})
    assert main(["claims", "--out", str(tmp_path)]) == 0
    assert "7a A coupling of 0.5 raises the error" in capsys.readouterr().out
