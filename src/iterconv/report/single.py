"""Pages about the result of one command: `page_of` makes one of a result of any kind that is registered with it.

A further kind of result takes a function from the result to a `Page`, registered with ``@page_of.register``.
"""

from functools import singledispatch
from typing import Any

import pandas as pd

from iterconv.indices import INDICES
from iterconv.measuring.report import Report
from iterconv.paths.damping import show_path
from iterconv.paths.families import family_of
from iterconv.planning.frontier import Plan, counted
from iterconv.report.charts import RATES, counting, interval_chart, title_of
from iterconv.report.page import METRICS, Control, Page, Plot, Section, Table, rows_of


@singledispatch
def page_of(result: Any, title: str) -> Page:
    """Make the page about a result.

    Args:
        result: What ``iterconv.measure``, ``plan``, ``settle``, ``depth``, ``exits`` or ``spans`` returned.
        title: The heading.

    Returns:
        The page, for ``write_page``.

    Raises:
        TypeError: If no function for such a result is registered.
    """
    raise TypeError(f"a result of the type {type(result).__name__} has no page; register one with @page_of.register")


@page_of.register
def _(result: Report, title: str) -> Page:
    indices = result.indices.assign(stage=[_name_stage(stage) for stage in result.indices["stage"]])
    curves = result.curves.assign(stage=[_name_stage(stage) for stage in result.curves["stage"]])
    stages = list(dict.fromkeys(curves["stage"]))
    metrics = {name: METRICS.get(name, name) for name in dict.fromkeys(curves["metric"])}
    families = dict.fromkeys(curves["perturbation"])
    controls = [
        Control(name="stage", label="Stage", options={"": "all stages"} | {stage: stage for stage in stages}),
        Control(name="metric", label="Curves show", options=metrics, value=next(iter(metrics))),
    ]
    written = curves.assign(path=list(map(show_path, curves["path"])))
    explained = {index.name: f"{index.title} ({index.short})" for index in INDICES.values()}
    return Page(
        title=title,
        lead="Its blocks were read out early, left out or evaluated again, and the errors compared. Intervals are from "
        "the bootstrap over examples. Stages and blocks count from 1.",
        facts=state_facts(result.options, error=f"{result.intact_error:.2%}"),
        sections=[
            Section(
                name="indices",
                title="Indices",
                tables=[Table(name="indices", title="Indices", frame=indices.replace({"index": explained}))],
            ),
            Section(
                name="curves",
                title="Curves",
                text="Lines are stages, bands their intervals; point at a dot for its values.",
                controls=controls,
                plots=[_draw(i, family, curves, stages, result.options["chance"]) for i, family in enumerate(families)],
                tables=[
                    Table(name="curves", title="Points of the curves", frame=written, keys=["metric"], folded=True)
                ],
            ),
        ],
        data={"points": rows_of(curves.drop(columns="path"))},
    )


def _draw(number: int, family: str, curves: Any, stages: list[str], chance: float) -> Plot:
    own = curves[(curves["perturbation"] == family) & (curves["metric"] == curves["metric"].iloc[0])]
    several = own.duplicated(["stage", "position"]).any()  # several blocks are left out at once
    where = f"datum.perturbation === '{family}' && datum.metric === chosen_metric"
    where += " && (chosen_stage === '' || datum.stage === chosen_stage)"
    x = counting("position", family_of(family).axis)
    chart = interval_chart("points", x, "stage", stages, rate=RATES, where=where, joined=not several, chance=chance)
    return Plot(name=f"curve-{number}", title=title_of(family), chart=chart)


@page_of.register
def _(result: Plan, title: str) -> Page:
    frontier, column = result.frontier, counted(result.options["mode"])
    curves = {
        "on held-out batches": frontier.drop(columns="route").assign(value=frontier["error"]),
        "on those of the search": frontier[["blocks", "distinct"]].assign(value=frontier["search_error"]),
    }
    for method, own in result.baselines.groupby("method") if len(result.baselines) else ():
        curves[f"by {method}, held out"] = own.drop(columns="route").assign(value=own["error"])
    x = counting(column, "blocks executed" if column == "blocks" else "different blocks")
    chart = interval_chart("frontier", x, "of", list(curves))
    tables = [Table(name="frontier", title="Routes", frame=_count_from_1(frontier))]
    if len(result.baselines):
        title_of_baselines = "What the conventional numbers would have dropped"
        frame = _count_from_1(result.baselines)
        tables.append(Table(name="baselines", title=title_of_baselines, frame=frame, folded=True))
    return Page(
        title=title,
        lead="For each number of blocks, the best route that was found. Routes were searched on one half of the "
        "batches; their errors on the other half have intervals. Blocks count from 1, and bars stand between stages.",
        facts=state_facts(result.options),
        sections=[
            Section(
                name="frontier",
                title="Frontier",
                plots=[Plot(name="frontier", title="Error against the number of blocks", chart=chart)],
                tables=tables,
            )
        ],
        data={"frontier": [row for of, own in curves.items() for row in rows_of(own.assign(of=of))]},
    )


def _count_from_1(routes: pd.DataFrame) -> pd.DataFrame:
    """Write the routes of a table as a reader counts blocks."""
    words = [" | ".join(" ".join(str(block + 1) for block in path) for path in route) for route in routes["route"]]
    return routes.assign(route=words)


def state_facts(options: dict[str, Any], **more: str) -> dict[str, str]:
    """Return circumstances as facts of a page; those that are empty are left out."""
    return {
        name.replace("_", " "): _in_words(value)
        for name, value in {**more, **options}.items()
        if value not in (None, [])
    }


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _name_stage(stage: Any) -> str:
    return "mean" if stage == "mean" else f"stage {stage + 1}"
