"""The toy networks of Fig. 1 in a report: their errors, and the traces of their estimates in the plane."""

from typing import Any

import altair as alt
import pandas as pd

from iterconv.figures.toy import LIMIT, TITLES
from iterconv.paths.families import family_of
from iterconv.report.charts import colour_by, counting, data, finish, tooltip
from iterconv.report.page import Plot, Section, rows_of


def make_toy_section(toy: pd.DataFrame) -> tuple[Section, dict[str, list[dict[str, Any]]]]:
    """Make the section on toy networks.

    Args:
        toy: ``Tables.toy``.

    Returns:
        The section, and the rows behind its plots.
    """
    kinds = [kind for kind in TITLES if kind in set(toy["kind"])]
    toy = toy.assign(network=toy["kind"].map(TITLES))
    measured = toy[toy["point"] < 0]
    traced = toy[(toy["point"] >= 0) & (toy["seed"] == 0) & (toy["perturbation"] != "drop-out")]
    families = list(dict.fromkeys(measured["perturbation"]))
    section = Section(
        name="toy",
        title="The toy inverse problem",
        text="Root mean squared error over 4,096 points: thin lines are networks, thick ones means over seeds. "
        f"Axes end at {LIMIT:g}; networks without shortcuts leave them.",
        plots=[
            *(
                Plot(name=f"toy-{i}", title=family_of(family).title, chart=_errors(family, [TITLES[k] for k in kinds]))
                for i, family in enumerate(families)
            ),
        ],
        parts=[
            Section(
                name="traces",
                title="Traces of the first seed",
                text="Estimates of four latent points in the plane, read out after each block and after each further "
                "evaluation of the last one; crosses are the truth.",
                plots=[Plot(name=f"trace-{kind}", title=TITLES[kind], chart=_traces(TITLES[kind])) for kind in kinds],
            )
        ],
    )
    columns = ["network", "seed", "perturbation", "position", "rmse"]
    traces = traced[["network", "point", "perturbation", "position", "z1", "z2", "target1", "target2"]]
    return section, {"toy": rows_of(measured[columns]), "traces": rows_of(traces)}


def _errors(family: str, networks: list[str]) -> Any:
    colours = colour_by("network", networks)
    chart = alt.Chart(data("toy")).transform_filter(f"datum.perturbation === '{family}'")
    x = counting("position", family_of(family).axis)
    scale = alt.Scale(domain=[0, LIMIT])
    thin = chart.mark_line(strokeWidth=1, opacity=0.3, clip=True).encode(
        x=x, y=alt.Y("rmse:Q", scale=scale, title=None), color=colours["color"], detail="seed:N"
    )
    means = chart.transform_aggregate(mean="mean(rmse)", n="count()", groupby=["network", "position"]).encode(
        x=x, y=alt.Y("mean:Q", scale=scale, title=None), color=colours["color"]
    )
    tips = tooltip(network="network:N", at="position:Q", mean_error="mean:Q|.4~g", seeds="n:Q")
    dots = means.mark_point(filled=True, size=36, opacity=1, clip=True).encode(shape=colours["shape"], tooltip=tips)
    return finish(thin + means.mark_line(strokeWidth=2, clip=True) + dots)


def _traces(network: str) -> Any:
    scale = alt.Scale(domain=[-LIMIT, LIMIT])
    families = ["early read-out", "extra evaluation"]
    chart = alt.Chart(data("traces")).transform_filter(f"datum.network === '{network}'")
    place: dict[str, Any] = {"x": alt.X("z1:Q", scale=scale, title="z1"), "y": alt.Y("z2:Q", scale=scale, title="z2")}
    colours = colour_by("perturbation", families)
    lines = chart.encode(**place, color=colours["color"], detail="point:N", order="position:Q").mark_line(
        strokeWidth=1.2, clip=True
    )
    tips = tooltip(position="position:Q", z1="z1:Q|.3f", z2="z2:Q|.3f")
    dots = chart.encode(**place, **colours, tooltip=tips).mark_point(filled=True, size=24, opacity=1, clip=True)
    truth = chart.mark_point(shape="cross", size=110, color="var(--ink)", filled=True, opacity=1, angle=45).encode(
        x="target1:Q", y="target2:Q"
    )
    return finish(lines + dots + truth, 300)
