"""The report on studies: claims, networks to choose and compare, each network's own page, tables."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from iterconv.claims.verdicts import judge_all, scale_of
from iterconv.indices import INDICES, explanations
from iterconv.paths.families import family_of
from iterconv.report import study_charts as charts
from iterconv.report.charts import title_of
from iterconv.report.matrix import make_matrix_section
from iterconv.report.page import Control, Page, Plot, Section, Table
from iterconv.report.prefix import summarise_prefix
from iterconv.report.study_data import LABELS, families_in, label_runs, make_rows, metrics_in
from iterconv.report.toy import make_toy_section
from iterconv.studies.tables import Tables

Rows = dict[str, list[dict[str, Any]]]
_TITLES = {"setting": "Data set and network", "kind": "Kind", "width": "Width", "coupling": "Coupling", "seed": "Seed"}
_PLURALS = {"setting": "data sets", "kind": "kinds", "width": "widths", "coupling": "strengths", "seed": "seeds"}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is there of a study."""

    study: str
    title: str
    scale: str
    finished: int
    wanted: int
    command: str


def make_study_page(
    title: str,
    lead: str,
    tables: Tables,
    studies: Mapping[str, Collection[str]],
    progress: list[Progress],
    facts: dict[str, str],
) -> Page:
    """Make the page about a set of runs.

    Args:
        title: The heading.
        lead: The sentences below it.
        tables: The tables of the runs.
        studies: The names of the studies of each run, by its name.
        progress: What is there of each study.
        facts: Circumstances to be shown.

    Returns:
        The page.
    """
    judgements = judge_all(tables)
    runs = label_runs(tables, studies) if len(tables.runs) else tables.runs
    orders = _order(runs)
    claims, data, cell = make_matrix_section(judgements, orders.get("setting", []))
    sections = [claims]
    if len(runs):
        rows = make_rows(tables, runs)
        data |= rows
        sections += [_explore(rows, runs, orders), _one_network(runs), _tables(runs)]
    if len(tables.toy):
        toy, toy_rows = make_toy_section(tables.toy)
        data |= toy_rows
        sections.append(toy)
    if len(tables.prefix_nets):
        sections.append(_prefix_sums(tables))
    sections.append(_studies(progress))
    return Page(
        title=title,
        lead=lead,
        facts={"Experiments": scale_of(tables), **facts},
        sections=sections,
        data=data,
        signals={"cell": cell},
        params={"orders": orders, "factors": charts.intervals()},
    )


def _order(runs: pd.DataFrame) -> dict[str, list[str]]:
    """List the values of each label in the order in which they are shown."""
    if runs.empty:
        return {}
    return {
        "setting": list(runs["setting"].value_counts().index),
        "kind": list(dict.fromkeys(sorted(runs["kind"], key=lambda kind: (kind != "ordinary", kind)))),
        **{name: sorted(set(runs[name]), key=int) for name in ("width", "seed")},
        "coupling": list(runs.sort_values("order")["coupling"].drop_duplicates()),
        "stage": [str(stage + 1) for stage in range(int(runs["stages"].max()))],
    }


def _controls(runs: pd.DataFrame, orders: dict[str, list[str]], rows: Rows) -> list[Control]:
    first = runs[runs["setting"] == orders["setting"][0]]
    usual = {"setting": orders["setting"][0], "kind": "ordinary", "width": min(first["width"], key=int)}
    studies = sorted({study for own in runs["study"] for study in own}, key=lambda name: (len(name), name))
    stages = {"": "mean over stages"} | {stage: f"stage {stage}" for stage in orders["stage"]}
    return [
        Control(name="study", label="Study", options={"": "all studies"} | {name: name for name in studies}),
        *(
            Control(
                name=name,
                label=_TITLES[name],
                options={"": f"all {_PLURALS[name]}"} | {value: value for value in orders[name]},
                value=usual.get(name, ""),
            )
            for name in LABELS
        ),
        Control(name="stage", label="Stage", options=stages),
        Control(
            name="colour",
            label="Colours tell apart",
            options={
                name: _TITLES.get(name, "Stage").lower() for name in ("coupling", "stage", "width", "kind", "seed")
            },
            value="coupling",
        ),
        Control(name="metric", label="Curves show", options=metrics_in(rows["curves"]), value="error"),
    ]


def _explore(rows: Rows, runs: pd.DataFrame, orders: dict[str, list[str]]) -> Section:
    measures = charts.measures_in(rows["runs"])
    axes = [
        Control(name=name, label=label, options=measures, value=value)
        for name, label, value in (("x", "Across", "divergence"), ("y", "Up", "test_error"))
    ]
    scatter = Plot(name="scatter", title="Each dot is a network", chart=charts.scatter_chart())
    return Section(
        name="explore",
        title="Explore the networks",
        text="Thin lines (one for each stage) and faint dots are networks, strong ones are means over seeds; point at "
        "them for values and intervals, and click a network to see all about it.",
        controls=_controls(runs, orders, rows),
        parts=[
            Section(name="curves", title="Perturbed networks", plots=_curve_plots(rows)),
            Section(name="coupling", title="Against coupling", plots=_coupling_plots(measures, orders["coupling"])),
            Section(name="stages", title="Indices by stage", plots=_stage_plots(rows, [*orders["stage"], "mean"])),
            Section(name="training", title="Training", plots=_training_plots() if rows["history"] else []),
            Section(name="scatter", title="Any two measures", controls=axes, plots=[scatter]),
        ],
    )


def _coupling_plots(measures: dict[str, str], conditions: list[str]) -> list[Plot]:
    return [
        Plot(name=f"coupling-{name}", title=_upper(title), chart=charts.coupling_chart(name, conditions))
        for name, title in measures.items()
        if name != "raw"  # which coupling does not change
    ]


def _stage_plots(rows: Rows, stages: list[str]) -> list[Plot]:
    return [
        Plot(name=f"stage-{name}", title=INDICES[name].title, chart=charts.stage_chart(name, stages))
        for name in charts.indices_in(rows["indices"])
    ]


def _training_plots() -> list[Plot]:
    return [
        Plot(name=f"training-{name}", title=f"Error in {name}", chart=charts.training_chart(name))
        for name in ("training", "validation")
    ]


def _curve_plots(rows: Rows) -> list[Plot]:
    return [
        Plot(
            name=f"curve-{number}",
            title=title_of(family),
            chart=charts.curve_chart(family),
            text=f"Against {family_of(family).axis}; the indices computed from it are in the tables below.",
        )
        for number, family in enumerate(families_in(rows["curves"]))
    ]


def _upper(title: str) -> str:
    return title[:1].upper() + title[1:]


def _one_network(runs: pd.DataFrame) -> Section:
    names = {name: name for name in runs["name"]}
    return Section(
        name="network",
        title="One network",
        controls=[Control(name="run", label="Network", options={"": "none yet"} | names)],
        special="run",
        content="Choose a network here, in a table or in a plot: its configuration, its command and its training "
        "appear, and it is emphasised in all plots.",
        plots=[Plot(name="own-training", title="Error in training and validation", chart=charts.own_training_chart())],
    )


def _tables(runs: pd.DataFrame) -> Section:
    keys = ["study", *LABELS]
    measures = [name for name in ("test_error", *INDICES, "mean_deviation", "effective", "raw") if name in runs]
    columns = ["name", *LABELS, *measures]
    means = summarise(runs)
    return Section(
        name="tables",
        title="Tables",
        text=" ".join(
            [
                "They hold the networks that are chosen above, and so do the files that can be downloaded.",
                *explanations((INDICES[name], value) for name in INDICES for value in means[name]),
            ]
        ),
        tables=[
            Table(
                name="means",
                title="Means over seeds",
                frame=means,
                keys=keys[:-1],
                shown=list(means.columns.drop("study")),
            ),
            Table(name="runs", title="Networks", frame=runs, keys=keys, shown=columns, links="run-", folded=True),
        ],
    )


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Take means and standard deviations over seeds.

    Args:
        runs: The runs as ``label_runs`` returns them.

    Returns:
        One row a setting, kind, width and coupling: the labels, ``n``, and for each measure its mean and, with more
        than one seed, its standard deviation; undefined indices are left out and counted.
    """
    rows = []
    names = {"test_error": "error", **{name: name for name in INDICES}, "effective": "effective parameters"}
    for key, own in runs.groupby(list(LABELS[:-1]), sort=False):
        row: dict[str, Any] = dict(zip(LABELS[:-1], key, strict=True))
        row |= {"study": sorted({study for studies in own["study"] for study in studies}), "n": len(own)}
        for column, name in names.items():
            values = own[column].astype(float)
            row |= {name: values.mean(), f"{name} sd": values.std()}
            if values.isna().any():
                row[f"{name} undefined"] = int(values.isna().sum())
        rows.append(row)
    return pd.DataFrame(rows)


def _prefix_sums(tables: Tables) -> Section:
    table = Table(name="prefix", title="Strings with every bit right", frame=summarise_prefix(tables))
    return Section(
        name="prefix",
        title="Prefix sums",
        text="The share of strings with every bit right after the last iteration by length: means over seeds with "
        "the least and the largest. The figures are files beside this page.",
        tables=[table],
    )


def _studies(progress: list[Progress]) -> Section:
    return Section(
        name="studies",
        title="Studies",
        text="Each command trains what is missing of its study, and writes this report again.",
        tables=[Table(name="studies", title="Studies", frame=pd.DataFrame([vars(each) for each in progress]))],
    )
