"""Reports as pages: what is in the file. What it does in a browser is tested in tests/browser."""

import json
import math
import re
import shlex
import sys
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch

import iterconv as ic
from commands import refused
from iterconv.cli.main import COMMANDS, main
from iterconv.cli.parsing import parse
from iterconv.report import study_data, write_result
from iterconv.report.page import Page, Plot, Section, Table, write_page
from iterconv.report.single import page_of
from iterconv.report.study import summarise
from iterconv.report.study_data import label_runs, make_rows
from iterconv.studies.tables import Tables
from iterconv.training.command import command_of_run

pytestmark = pytest.mark.medium

RESULTS = Path(__file__).parents[1] / "results"
MOST = 5_000_000
"""The bytes of a page on a full study."""


@pytest.fixture(scope="module")
def quick():
    return Tables.load(RESULTS / "quick")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ic.models.resnet(4, 3, 2, in_channels=1)


@pytest.fixture(scope="module")
def batches():
    images = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return [(images[:20], torch.arange(20) % 10), (images[20:], torch.arange(20) % 10)]


def scripts(page):
    """The JSON of a page by its name."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text.replace("<\\/", "</")) for name, text in found}


def check_alone(page):
    """Nothing in a page is fetched: no address outside of Vega's own code, and the browser is told to allow none."""
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL).replace(alt.SCHEMA_URL, "")
    assert not re.search(r"""(src|href)="(?!#)|@import|url\(|https?://""", own)
    assert "default-src 'none'" in page and "connect-src" not in page
    assert len(page.encode()) < MOST


@pytest.mark.parametrize("name", ["quick", pytest.param("small", marks=pytest.mark.extended)])
def test_a_folder_of_tables_becomes_a_page(name, tmp_path, capsys):
    assert main(["report", str(RESULTS / name), "--html", str(tmp_path / "x.html")]) == 0
    page = (tmp_path / "x.html").read_text()
    check_alone(page)
    assert f"({len(page.encode()) / 1e6:.1f} MB)" in capsys.readouterr().out
    found, tables = scripts(page), Tables.load(RESULTS / name)
    assert [row["run"] for row in found["data-runs"]] == list(tables.runs["name"])
    assert all(row["study"] for row in found["data-runs"]), "every run is one of a study's"
    points = sum(len(row["y"]) for row in found["data-curves"])
    assert points == len(tables.curves[tables.curves["metric"].isin({row["metric"] for row in found["data-curves"]})])
    assert len(found["data-findings"]) == len(pd.read_csv(RESULTS / name / "claims.csv"))
    plots = [name for name in found if name.startswith("plot-")]
    assert len(plots) == page.count("data-plot=") >= 20
    judged = {finding.split("-")[1] for finding in re.findall(r'id="(claim-\d+)', page)}
    assert judged == set(map(str, range(1, 18) if name == "quick" else (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 17)))
    for plot in plots if name == "quick" else ():
        alt.Chart.from_dict(found[plot], validate=True)  # raises where Vega-Lite's schema is not kept


def test_rows_of_a_page_are_those_of_the_tables(quick):
    rows = make_rows(quick, label_runs(quick, {}))
    names = [row["run"] for row in rows["runs"]]
    rng = np.random.default_rng(0)
    for row in (rows["curves"][place] for place in rng.integers(len(rows["curves"]), size=20)):
        same = {"name": names[row["id"]], "stage": int(row["stage"]) - 1, "perturbation": row["family"]}
        same["metric"] = row["metric"]
        own = quick.curves[(quick.curves[list(same)] == pd.Series(same)).all(axis=1)]
        places = range(row["x"], row["x"] + len(row["y"])) if isinstance(row["x"], int) else row["x"]
        assert list(places) == own["position"].tolist()
        assert row["y"] == pytest.approx(own["value"].tolist(), rel=6e-3)
    assert {row["stage"] for row in rows["indices"]} == {"1", "2", "3", "mean"}
    assert all(len(row["epoch"]) == len(row["validation"]) <= study_data.EPOCHS for row in rows["history"])


def test_a_page_leaves_metrics_out_before_it_grows_too_large(quick, monkeypatch):
    errors = (quick.curves["metric"] == "error").sum()
    for most, kept in ((errors - 1, ["error"]), (2 * errors, ["error", "disagreement"])):
        monkeypatch.setattr(study_data, "POINTS", most)
        rows = make_rows(quick, label_runs(quick, {}))["curves"]
        assert list(dict.fromkeys(row["metric"] for row in rows)) == kept


@pytest.mark.extended
def test_a_study_of_five_hundred_large_networks_fits(tmp_path, quick):
    few = quick.named(quick.runs["name"][:5])
    curves = few.curves[few.curves["position"] < 1].drop(columns="position")
    # Three stages of 16 blocks and 400 epochs, as in the paper: 49 points of each metric in each stage.
    curves = curves.drop_duplicates(["name", "stage", "perturbation", "metric"]).merge(
        pd.DataFrame({"position": range(49)}), how="cross"
    )
    history = (
        few.history.drop_duplicates("name")
        .drop(columns="epoch")
        .merge(pd.DataFrame({"epoch": range(400)}), how="cross")
    )
    tables = Tables(few.runs, few.indices, curves, history, quick.toy)
    copies = [
        [table.assign(name=table["name"] + f"-{copy}") for table in (tables.runs, tables.indices, curves, history)]
        for copy in range(100)
    ]
    many = Tables(*(pd.concat(parts, ignore_index=True) for parts in zip(*copies, strict=True)), quick.toy)
    many.runs["seed"] = range(500)
    many.save(tmp_path, {})
    assert main(["report", str(tmp_path)]) == 0
    check_alone((tmp_path / "report.html").read_text())


def test_means_are_over_seeds(quick):
    means = summarise(label_runs(quick, {}))
    assert len(means) == len(quick.runs) / 3 or means["n"].sum() == len(quick.runs)
    row = means[(means["setting"] == "digits, 3 stages of 5 blocks, 8 epochs") & (means["kind"] == "proper")].iloc[0]
    own = quick.runs.query("residual == 'proper' and coupling == 0 and init == 'independent'")
    own = own if row["coupling"] == "0 non-rec." else quick.runs.query("residual == 'proper' and coupling == 0")
    values = own["divergence"].to_numpy()
    assert row["n"] == len(values) == 3
    assert row["divergence"] == pytest.approx(sum(values) / 3)
    assert row["divergence sd"] == pytest.approx(math.sqrt(sum((values - values.mean()) ** 2) / 2))


@pytest.mark.parametrize("name", ["quick", "small"])
def test_the_command_of_a_run_trains_that_run(name):
    told = ["data", "samples", "residual", "init", "norm_scale", "coupling", "kernel", "first_coupled", "blocks"]
    for row in Tables.load(RESULTS / name).runs.drop_duplicates(told).to_dict("records"):
        program, *words = shlex.split(command_of_run(row))
        assert program == "iterconv" and parse(COMMANDS, words).run.name == row["name"], words


def test_pages_of_a_measurement_and_of_a_plan(tmp_path, model, batches):
    report = ic.measure(model, batches, resamples=20, families=["pair drop-out"])
    size = write_result(report, "<Measured>", tmp_path / "measured.html")
    page = (tmp_path / "measured.html").read_text()
    assert size == len(page.encode()) and "&lt;Measured&gt;" in page
    check_alone(page)
    found = scripts(page)
    assert [row["value"] for row in found["data-points"]] == pytest.approx(report.curves["value"].tolist(), rel=1e-3)
    assert sum(name.startswith("plot-") for name in found) == 4 and page.count("<tr data-keys=") == len(report.curves)

    plan = ic.plan(model, batches, resamples=20)
    write_result(plan, "Planned", tmp_path / "planned.html")
    page = (tmp_path / "planned.html").read_text()
    check_alone(page)
    rows = scripts(page)["data-frontier"]
    assert len(rows) == 2 * len(plan.frontier) + len(plan.baselines) and "1 2 3 | 1 2 3" in page
    assert {row["of"] for row in rows} >= {"by Block Influence, held out", "by angular distance, held out"}
    assert "<dt>spans</dt><dd>no</dd>" in page


@pytest.mark.parametrize("mode, column", [("repeat", "blocks"), ("share", "distinct")])
def test_the_page_of_a_plan_counts_the_blocks_that_its_mode_changes(tmp_path, model, batches, mode, column):
    found = check_page(tmp_path, ic.plan(model, batches, mode=mode, resamples=10))
    [dots] = [layer for layer in found["plot-frontier"]["layer"] if layer["mark"]["type"] == "point"]
    assert dots["encoding"]["x"]["field"] == column
    assert len({row[column] for row in found["data-frontier"]}) > 1


def test_a_further_kind_of_result_takes_one_function(tmp_path):
    class Found:
        table = pd.DataFrame({"name": ["</script>", "b"], "value": [math.nan, 1e-9], "whole": [1, 2]})

    with pytest.raises(TypeError, match="type Found has no page"):
        page_of(Found(), "x")

    @page_of.register
    def _(result: Found, title: str) -> Page:
        chart = alt.Chart(alt.NamedData(name="rows")).mark_point().encode(x="value:Q")
        plot, table = Plot(name="p", title="Plot", chart=chart), Table(name="t", title="Table", frame=result.table)
        section = Section(name="s", title="Section", plots=[plot], tables=[table])
        rows = [{"name": "</script>", "value": 1.0}]
        return Page(title=title, lead="", facts={}, sections=[section], data={"rows": rows})

    write_result(Found(), "Found", tmp_path / "found.html")
    page = (tmp_path / "found.html").read_text()
    found = scripts(page)
    assert found["data-rows"] == [{"name": "</script>", "value": 1.0}] and found["plot-p"]["usermeta"]["data"] == [
        "rows"
    ]
    assert '<td data-value="">' in page and '<td data-value="1e-09">1e-09' in page


def test_what_would_be_refused_after_the_work_is_refused_before_it(capsys, tmp_path, monkeypatch):
    words = ("measure", "timm:resnet18", "--weights", "none")
    assert "--html x.txt does not name a page; let it end in .html" in refused(capsys, *words, "--html", "x.txt")
    assert "does not name a page" in refused(capsys, "plan", "timm:resnet18", "--html", "x")
    assert "nowhere holds no tables" in refused(capsys, "report", f"{tmp_path}/nowhere")
    folder = str(RESULTS / "quick")
    assert "--html is for a folder of tables" in refused(capsys, "report", "fig2", "--html", "x.html")
    assert "is a folder of tables; --scale" in refused(capsys, "report", folder, "--scale", "small")
    for library in ("altair", "vl_convert"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            line = refused(capsys, "report", folder, "--html", str(tmp_path / "x.html"))
            assert f"an HTML report needs {library}; pip install 'iterconv[repro]'" in line
    assert list(tmp_path.iterdir()) == []


def test_a_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    page = Page(title="x", lead="", facts={}, sections=[])
    write_page(page, tmp_path / "x.html")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    before = (tmp_path / "x.html").read_bytes()
    with pytest.raises(ic.InputError, match="x.html .No space left on device"):
        write_page(Page(title="y", lead="", facts={}, sections=[]), tmp_path / "x.html")
    assert (tmp_path / "x.html").read_bytes() == before


def check_page(tmp_path, result):
    """The data of the page about a result, whose plots keep Vega-Lite's schema."""
    write_result(result, "x", tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    check_alone(page)
    found = scripts(page)
    for name in (name for name in found if name.startswith("plot-")):
        alt.Chart.from_dict(found[name], validate=True)
    return found


def test_the_page_of_depth(tmp_path, model, batches):
    result = ic.depth(model, batches, extra_evaluations=2)
    found = check_page(tmp_path, result)
    errors = [row["value"] for row in found["data-rates"] if row["of"] == "error"]
    assert errors == pytest.approx(result.curve["error"].tolist(), rel=1e-3)
    decided = [row["value"] for row in found["data-decided"] if row["of"].startswith("wrong")]
    own = result.examples.query("not right")["settling_depth"]
    assert decided == pytest.approx([(own <= depth).mean() for depth in range(1, 7)], rel=1e-3)


@pytest.mark.extended
def test_pages_of_settling_exits_and_spans(tmp_path, model, batches):
    settling = ic.settle(model, batches, steps=4)
    found = check_page(tmp_path, settling)
    errors = [row["value"] for row in found["data-rates"] if row["of"] == "error"]
    assert errors == pytest.approx(settling.steps["error"].tolist(), rel=1e-3)
    counted = {(row["verdict"], row["at the end"]): row["examples"] for row in found["data-verdicts"]}
    assert sum(counted.values()) == 40 and counted["idle", "wrong"] == settling.verdicts.loc["idle", "wrong"]
    exits = ic.exits(model, batches, resamples=10)
    assert len(check_page(tmp_path, exits)["data-frontier"]) == len(exits.frontier)
    maps = ic.spans(model, batches, resamples=10)
    spans = pd.DataFrame(check_page(tmp_path, maps)["data-spans"]).sort_values(["stage", "kind", "first", "last"])
    table = maps.table.sort_values(["stage", "kind", "start", "end"])
    assert spans["change"].tolist() == pytest.approx(table["change"].tolist(), abs=1e-3)
    assert spans["first"].tolist() == (table["start"] + 1).tolist() and spans["last"].tolist() == table["end"].tolist()


@pytest.mark.parametrize("command", ["settle", "depth", "exits", "spans"])
def test_every_measuring_command_refuses_a_bad_page_at_once(capsys, command):
    line = refused(capsys, command, "timm:resnet18", "--weights", "none", "--html", "x.txt")
    assert "--html x.txt does not name a page; let it end in .html" in line
