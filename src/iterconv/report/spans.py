"""The page about ``spans``: a map for each stage, which a reader points at."""

from typing import Any

import altair as alt

from iterconv.figures.spans import TITLES
from iterconv.planning.spans import SpanMap
from iterconv.report.charts import data, finish, tooltip
from iterconv.report.page import Control, Page, Plot, Section, Table, rows_of
from iterconv.report.single import page_of, state_facts


@page_of.register
def _(result: SpanMap, title: str) -> Page:
    table = result.table.assign(stage=result.table["stage"] + 1, start=result.table["start"] + 1)
    table = table.rename(columns={"start": "first", "end": "last"}).sort_values("change", kind="stable")
    kinds = {kind: TITLES[kind] for kind in dict.fromkeys(result.table["kind"])}
    most = float(table["change"].abs().max()) or 1.0
    maps = [
        Plot(name=f"map-{stage}", title=f"Stage {stage}", chart=_draw_map(int(stage), most))
        for stage in sorted(table["stage"].unique())
    ]
    return Page(
        title=title,
        lead="Every span of blocks was dropped, executed twice, or its two ends were swapped. A change is the error "
        "with the span perturbed less that of the ordinary pass. Stages and blocks count from 1.",
        facts={"error of the ordinary pass": f"{result.intact_error:.2%}", **state_facts(result.options)},
        sections=[
            Section(
                name="maps",
                title="Maps",
                text="Blue: the error falls; white: it stays; red: it rises. Point at a span for its "
                "numbers, which the table has too.",
                controls=[Control(name="kind", label="Spans are", options=kinds, value=next(iter(kinds)))],
                plots=maps,
                tables=[Table(name="spans", title="Spans", frame=table, keys=["kind"], shown=list(table.columns))],
            )
        ],
        data={"spans": rows_of(table)},
    )


def _draw_map(stage: int, most: float) -> Any:
    where = f"datum.stage === {stage} && datum.kind === chosen_kind"
    tips = tooltip(
        first="first:Q",
        last="last:Q",
        error="error:Q|.1~%",
        change="change:Q|+.1~%",
        low="low:Q|+.1~%",
        high="high:Q|+.1~%",
    )
    colour = alt.Color(
        "change:Q",
        scale=alt.Scale(scheme="redblue", reverse=True, domain=[-most, most]),
        legend=alt.Legend(format="+.0%", title="change of the error", direction="horizontal", gradientLength=180),
    )
    return finish(
        alt.Chart(data("spans"))
        .transform_filter(where)
        .mark_rect()
        .encode(
            x=alt.X("last:O", title="last block of the span", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("first:O", title="first block"),
            color=colour,
            tooltip=tips,
        ),
        280,
    )
