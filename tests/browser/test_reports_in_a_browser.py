"""Reports in a real browser: what loads, what the controls change, the keyboard, and what axe-core finds."""

import csv
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy import stats

import iterconv as ic
from iterconv.cli.main import main
from iterconv.report import write_result
from iterconv.studies.tables import Tables

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ROOT = Path(__file__).parents[2]
QUICK = ROOT / "results" / "quick"
AXE = Path(os.environ.get("AXE", ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"))
PAGES = ["study", "measure", "plan", "spans", "settle", "depth", "exits"]
PATIENCE = 300_000
"""Milliseconds to wait for a page, also on a machine that does much else."""

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a set of studies, and of single results of every kind."""
    folder = tmp_path_factory.mktemp("pages")
    assert main(["report", str(QUICK), "--html", str(folder / "study.html")]) == 0
    torch.manual_seed(0)
    net = ic.models.resnet(4, 3, 2, in_channels=1)
    batches = [(torch.randn(20, 1, 8, 8), torch.arange(20) % 10) for _ in range(2)]
    write_result(ic.measure(net, batches, resamples=20), "A network", folder / "measure.html")
    write_result(ic.plan(net, batches, resamples=20), "Its blocks", folder / "plan.html")
    write_result(ic.spans(net, batches, resamples=20), "Its spans", folder / "spans.html")
    write_result(ic.settle(net, batches, steps=20), "Does it settle?", folder / "settle.html")
    write_result(ic.depth(net, batches), "Its depth", folder / "depth.html")
    write_result(ic.exits(net, batches, resamples=20), "Its exits", folder / "exits.html")
    return folder


@pytest.fixture
def opened(chromium, pages):
    """A function that opens a page; afterwards, nothing may have been complained of or asked for."""
    complaints, contexts = [], []

    def open_page(name, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "blob:")) or complaints.append(f"asked for {r.url}"))
        page.goto((pages / f"{name}.html").as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def choose(page, **values):
    """Set controls by their values, and wait until all plots are drawn."""
    for name, value in values.items():
        page.select_option(f"select[name={name}]", value)
    page.evaluate("drawing")


def marks(page, plot, kind="symbol"):
    return page.locator(f"[data-plot=plot-{plot}] .role-mark.mark-{kind} path")


@pytest.mark.parametrize("name", PAGES)
def test_every_plot_is_drawn(opened, name):
    page = opened(name)
    for box in page.query_selector_all("[data-plot]"):
        shown = box.evaluate("one => one.closest('figure').offsetParent !== null")
        assert bool(box.query_selector("svg")) == shown, box.get_attribute("data-plot")
    assert page.locator(".empty").count() == 0
    drawn = page.evaluate("[...document.querySelectorAll('svg')].map(one => one.outerHTML).join()")
    assert len(drawn) > 1000 and not re.search("NaN|Infinity|e\\+308", drawn)


def test_a_page_asks_nobody_even_if_told_to(chromium, pages):
    page = chromium.new_page()
    page.goto((pages / "plan.html").as_uri())
    refused = page.evaluate("fetch('https://example.com').then(() => 'fetched', () => 'refused')")
    assert refused == "refused", "the page's own policy forbids it"
    page.close()


def test_controls_choose_networks_in_plots_and_tables(opened):
    page, runs = opened("study"), Tables.load(QUICK).runs
    rows = page.locator("#table-runs tbody tr:not([hidden])")
    ordinary = runs.query("stages == 3 and residual == 'ordinary' and norm_scale == 1 and first_coupled == 0")
    ordinary = ordinary[ordinary["kernel"] == "uniform"]
    assert rows.count() == len(ordinary) and "Networks: 15 of 101" in page.text_content("output")
    dots = marks(page, "coupling-test_error")
    assert dots.count() == len(ordinary) + ordinary.groupby(["init", "coupling"]).ngroups
    choose(page, kind="proper", seed="1")
    proper = runs.query("residual == 'proper' and seed == 1")
    assert rows.count() == len(proper) and dots.count() == 2 * len(proper), "one seed is its own mean"
    choose(page, setting="digits, 1 stage of 16 blocks, 10 epochs")
    assert rows.count() == 0 and page.locator("#explore .empty").count() > 10
    choose(page, kind="ordinary", seed="", width="")
    assert rows.count() == len(runs.query("stages == 1")) == 30 and page.locator("#explore .empty").count() == 0
    page.click("button[type=reset]")
    page.wait_for_function("document.querySelector('output').textContent.includes('15 of 101')")


def test_the_pointer_finds_means_with_students_interval(opened):
    page, curves = opened("study"), Tables.load(QUICK).curves
    choose(page, coupling="0.9", stage="2")
    own = curves.query(
        "stages == 3 and residual == 'ordinary' and coupling == 0.9 and kernel == 'uniform' and stage == 1"
    )
    own = own.query("norm_scale == 1 and first_coupled == 0 and metric == 'error' and perturbation == 'drop-out'")
    values = own[own["position"] == 2]["value"]
    half = stats.t.ppf(0.975, 2) * values.std() / 3**0.5
    marks(page, "curve-1").nth(1).hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    told = dict(
        (cells.nth(0).text_content(), cells.nth(1).text_content())
        for cells in (row.locator("td") for row in page.locator("#vg-tooltip-element tr").all())
    )
    numbers = [float(text.rstrip("%")) / 100 for text in (told["mean"], *told["interval"].split(" to "))]
    assert numbers == pytest.approx([values.mean(), values.mean() - half, values.mean() + half], abs=1e-3)
    assert told["seeds"] == "3" and told["dropped block"] == "2"


def test_maps_of_spans_and_exit_rules_follow_their_controls(opened):
    page = opened("spans")
    spans = marks(page, "map-1", "rect")
    assert spans.count() == 6, "three blocks have six spans"
    choose(page, kind="swap")
    assert spans.count() == 3 and page.locator("#table-spans tbody tr:not([hidden])").count() == 2 * 3
    page = opened("exits")
    shown = marks(page, "frontier").count()
    choose(page, rule="confidence")
    assert 0 < marks(page, "frontier").count() < shown


def test_a_cell_of_the_matrix_opens_its_findings_and_their_networks(opened):
    page, claims = opened("study"), pd.read_csv(QUICK / "claims.csv")
    setting = "digits, 3 stages of 5 blocks, 8 epochs"
    page.click(f"a[aria-label^='Claim 4a, {setting}']")
    article = page.locator("article:visible")
    own = claims[(claims["part"] == "4a") & (claims["setting"] == setting)]
    assert article.count() == 1 and article.locator("li").count() == len(own) > 0
    page.evaluate("drawing")
    assert marks(page, "findings").count() == len(own)
    choose(page, kind="proper", width="8")
    article.get_by_role("link", name="Show the networks").click()
    page.evaluate("drawing")
    assert page.input_value("select[name=kind]") == "ordinary" and page.url.endswith("#coupling")


def test_a_click_on_a_network_opens_it_and_marks_it_everywhere(opened):
    page = opened("study")
    marks(page, "scatter").nth(4).click(force=True)
    page.wait_for_function("location.hash.startsWith('#run-')")
    page.evaluate("drawing")
    name = page.input_value("select[name=run]")
    assert page.url.endswith(name) and page.text_content(".record h3") == name
    assert page.text_content(".record code").startswith("iterconv train --data digits")
    epochs = Tables.load(QUICK).history.query("name == @name")
    assert marks(page, "own-training").count() == 2 * len(epochs)
    rings = page.evaluate(
        "[...document.querySelectorAll('#coupling path')].filter(p => p.getAttribute('stroke') == 'var(--ink)').length"
    )
    assert rings == page.locator("#coupling .plot").count()


def test_tables_sort_and_download(opened, tmp_path):
    page = opened("study")
    head = page.locator("#table-means thead th", has_text=re.compile("^divergence$"))
    column = head.evaluate("one => one.cellIndex")
    for direction in ("ascending", "descending"):
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == direction
        found = page.eval_on_selector_all(
            "#table-means tbody tr:not([hidden])", f"rows => rows.map(row => Number(row.cells[{column}].dataset.value))"
        )
        assert len(found) == 5 and found == sorted(found, reverse=direction == "descending")
    with page.expect_download() as download:
        page.click("[data-table=table-means]")
    download.value.save_as(tmp_path / "means.csv")
    rows = list(csv.DictReader((tmp_path / "means.csv").read_text().splitlines()))
    assert [float(row["divergence"]) for row in rows] == found
    assert {row["setting"] for row in rows} == {"digits, 3 stages of 5 blocks, 8 epochs"} and rows[0]["n"] == "3"


def test_the_keyboard_reaches_everything(opened):
    page = opened("measure")
    wanted = page.locator("a, select, button, summary, [tabindex='0']").locator("visible=true")
    seen = set()
    for _ in range(wanted.count() + 3):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
    assert {one.evaluate("one => one.outerHTML.slice(0, 200)") for one in wanted.all()} <= seen
    page.focus("select[name=metric]")
    page.keyboard.press("ArrowDown")
    page.evaluate("drawing")
    assert page.input_value("select[name=metric]") != "error" and page.locator(".empty").count() == 0


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(opened, width):
    page = opened("study", viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_print_has_light_colours_also_in_dark_mode_and_no_controls(opened):
    page = opened("plan", color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 24, 31)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert not page.locator("[data-table]").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(opened, name, scheme):
    if not AXE.exists():
        pytest.skip(f"there is no {AXE}; `make test-browser` fetches it")
    page = opened(name, color_scheme=scheme)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20, "axe looked at the page"
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"]] == []
