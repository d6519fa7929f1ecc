"""The charts of a report on studies. They show the networks that the reader chose, and take means over seeds."""

from collections.abc import Sequence
from typing import Any

import altair as alt
from scipy import stats

from iterconv.indices import INDICES
from iterconv.paths.families import family_of
from iterconv.report.charts import (
    INK,
    RATES,
    colour_by,
    counting,
    data,
    draw_chance,
    finish,
    in_words,
    rate_axis,
    tooltip,
    unit_scale,
)
from iterconv.report.study_data import LABELS, MEASURES

_CHOSEN = " && ".join(
    [
        "(chosen_study === '' || indexof(datum.study, chosen_study) >= 0)",
        *(f"(chosen_{name} === '' || datum.{name} === chosen_{name})" for name in LABELS),
    ]
)
_STAGE = "(chosen_stage === '' || datum.stage === chosen_stage)"
CONFIDENCE = 0.95
"""The confidence of intervals over seeds in these charts; verdicts have their own."""
_RUN_FIELDS = ["run", "study", *LABELS, "chance"]


def intervals() -> list[float]:
    """Return the factors of Student's intervals by the number of seeds, which charts know as ``factors``."""
    return [0.0, 0.0, *(float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) for n in range(2, 64))]


def curve_chart(family: str) -> Any:
    """Draw the errors of chosen networks along a family of perturbations: thin lines are networks, thick ones means."""
    chart = (
        _lookup(
            alt.Chart(data("curves")).transform_filter(f"datum.family === '{family}' && datum.metric === chosen_metric")
        )
        .transform_filter(_STAGE)
        .transform_calculate(x="isNumber(datum.x) ? sequence(datum.x, datum.x + length(datum.y)) : datum.x")
        .transform_flatten(["x", "y"])
        .transform_calculate(group="datum[chosen_colour]")
    )
    x = counting("x", family_of(family).axis)
    axis = rate_axis(RATES)
    colour, _ = _by_group("chosen_colour")
    base = chart.encode(x=x, y=alt.Y("y:Q", axis=axis, scale=unit_scale(RATES)), detail=["run:N", "stage:N"])
    thin = base.mark_line(strokeWidth=1, opacity=0.22, clip=True).encode(color=colour, tooltip=tooltip(network="run:N"))
    picked = base.transform_filter("datum.run === chosen_run").mark_line(strokeWidth=2, color=INK, strokeDash=[5, 3])
    chance = draw_chance(chart, "setting")
    return finish(chance + thin + picked + _means(chart, x, "x", RATES, "chosen_colour"))


def coupling_chart(measure: str, conditions: list[str]) -> Any:
    """Draw a measure of chosen networks against coupling: dots are networks, lines join means."""
    control = "(indexof(['stage', 'coupling'], chosen_colour) >= 0 ? 'width' : chosen_colour)"
    chart = _of_runs(measure).transform_calculate(group=f"datum[{control}]")
    x = alt.X(
        "coupling:N",
        title="coupling strength",
        scale=alt.Scale(type="point", padding=0.5, domain=conditions),
        axis=alt.Axis(labelAngle=0),
    )
    return finish(_dots_and_means(chart, x, "coupling", _is_rate(measure), control))


def stage_chart(index: str, stages: list[str]) -> Any:
    """Draw an index of chosen networks by stage: dots are networks, with their bootstrap intervals at the pointer."""
    control = "(chosen_colour === 'stage' ? 'coupling' : chosen_colour)"
    chart = (
        _lookup(alt.Chart(data("indices")).transform_filter(f"datum.index === '{index}'"))
        .transform_filter(f"datum.stage === 'mean' || {_STAGE}")
        .transform_calculate(group=f"datum[{control}]", y="datum.value")
    )
    x = alt.X(
        "stage:N", title="stage", scale=alt.Scale(type="point", padding=0.5, domain=stages), axis=alt.Axis(labelAngle=0)
    )
    tips = tooltip(network="run:N", value="y:Q|.3f", low="low:Q|.3f", high="high:Q|.3f")
    return finish(_dots_and_means(chart, x, "stage", _is_rate(index), control, tips))


def training_chart(column: str) -> Any:
    """Draw the error in the course of training: thin lines are networks, thick ones means."""
    control = "(chosen_colour === 'stage' ? 'coupling' : chosen_colour)"
    chart = (
        _lookup(alt.Chart(data("history")))
        .transform_flatten(["epoch", column])
        .transform_calculate(group=f"datum[{control}]", y=f"datum.{column}")
    )
    x = counting("epoch", "epoch")
    axis = alt.Axis(format=".0%", title=None)
    colour, _ = _by_group(control)
    base = chart.encode(x=x, y=alt.Y("y:Q", axis=axis), detail="run:N")
    thin = base.mark_line(strokeWidth=1, opacity=0.22).encode(color=colour, tooltip=tooltip(network="run:N"))
    picked = base.transform_filter("datum.run === chosen_run").mark_line(strokeWidth=2, color=INK, strokeDash=[5, 3])
    return finish(thin + picked + _means(chart, x, "epoch", "true", control))


def own_training_chart() -> Any:
    """Draw the course of the training of the one network that is looked at."""
    colours = colour_by("images", ["training", "validation"])
    chart = (
        alt.Chart(data("history"))
        .transform_lookup("id", from_=alt.LookupData(data=data("runs"), key="id", fields=["run"]))
        .transform_filter("datum.run === chosen_run")
        .transform_flatten(["epoch", "training", "validation"])
        .transform_fold(["training", "validation"], as_=["images", "error"])
        .encode(
            x=counting("epoch", "epoch"),
            y=alt.Y("error:Q", axis=alt.Axis(format=".0%", title=None)),
            color=colours["color"],
        )
    )
    dots = chart.mark_point(filled=True, size=36, opacity=1).encode(
        shape=colours["shape"],
        tooltip=tooltip(images="images:N", epoch="epoch:Q", error="error:Q|.2%"),
    )
    return finish(chart.mark_line(strokeWidth=2) + dots)


def scatter_chart() -> Any:
    """Draw any measure of the chosen networks against any other."""
    control = "(chosen_colour === 'stage' ? 'coupling' : chosen_colour)"
    colour, shape = _by_group(control)
    chart = (
        alt.Chart(data("runs"))
        .transform_filter(_CHOSEN)
        .transform_calculate(group=f"datum[{control}]", x="datum[chosen_x]", y="datum[chosen_y]")
        .transform_filter("isValid(datum.x) && isValid(datum.y)")
        .encode(
            x=alt.X("x:Q", scale=alt.Scale(zero=False), axis=rate_axis("indexof(chosen_x, 'error') >= 0")),
            y=alt.Y("y:Q", scale=alt.Scale(zero=False), axis=rate_axis("indexof(chosen_y, 'error') >= 0")),
        )
    )
    dots = chart.mark_point(filled=True, size=60, opacity=0.75).encode(
        color=colour, shape=shape, tooltip=tooltip(network="run:N", across="x:Q|.4~g", up="y:Q|.4~g")
    )
    return finish(dots + _ring(chart), 320)


def _lookup(chart: Any) -> Any:
    """Give rows the labels of their runs, and keep those of chosen networks."""
    runs = alt.LookupData(data=data("runs"), key="id", fields=_RUN_FIELDS)
    return chart.transform_lookup("id", from_=runs).transform_filter(_CHOSEN)


def _of_runs(measure: str) -> Any:
    chart = alt.Chart(data("runs")).transform_filter(f"({_CHOSEN}) && isValid(datum.{measure})")
    return chart.transform_calculate(y=f"datum.{measure}")


def _is_rate(measure: str) -> str:
    return "true" if "error" in measure else "false"


def _by_group(control: str) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape by group, which keeps its colour when other groups are not chosen."""
    channels = colour_by("group", alt.ExprRef(f"orders[{control}]"))
    return channels["color"], channels["shape"]


def _dots_and_means(chart: Any, x: Any, field: str, rate: str, control: str, tips: Any = None) -> Any:
    """Draw networks as dots and their means as lines, groups side by side."""
    colour, shape = _by_group(control)
    chart = chart.transform_calculate(
        side=f"indexof(orders[{control}], datum.group) + 0.5 - length(orders[{control}]) / 2"
    )
    side = alt.XOffset("side:Q", scale=alt.Scale(domain=[-4, 4], range=[-16, 16]))
    y = alt.Y("y:Q", axis=rate_axis(rate), scale=alt.Scale(zero=False))
    base = chart.encode(x=x, y=y, xOffset=side)
    dots = base.mark_point(filled=True, size=30, opacity=0.4).encode(
        color=colour, shape=shape, tooltip=tips or tooltip(network="run:N", value="y:Q|.4~g")
    )
    return dots + _ring(base) + _means(chart, x, field, rate, control, side)


def _ring(chart: Any) -> Any:
    """Put a ring around the network that is looked at."""
    return chart.transform_filter("datum.run === chosen_run").mark_point(size=160, stroke=INK, strokeWidth=2, opacity=1)


def _means(chart: Any, x: Any, field: str, rate: str, control: str, side: Any = None) -> Any:
    """Draw means over seeds with their intervals at the pointer.

    Choice: runs of one seed share data order and initial weights, so that they are averaged first and count as one.
    """
    colour, shape = _by_group(control)
    groups = ["group", field, *(["side"] if side else [])]
    half = "factors[min(datum.n, length(factors) - 1)] * datum.sd / sqrt(datum.n)"
    means = (
        chart.transform_filter("isValid(datum.y)")
        .transform_aggregate(of_seed="mean(y)", groupby=[*groups, "seed"])
        .transform_aggregate(mean="mean(of_seed)", sd="stdev(of_seed)", n="count()", groupby=groups)
        .transform_calculate(half=half)
        .transform_calculate(
            value=in_words("datum.mean", rate),
            interval=f"datum.n < 2 ? 'none (one seed)' : ({in_words('(datum.mean - datum.half)', rate)}) + ' to ' + "
            f"({in_words('(datum.mean + datum.half)', rate)})",
        )
        .encode(x=x, y=alt.Y("mean:Q", axis=rate_axis(rate)), color=colour, **({"xOffset": side} if side else {}))
    )
    at = x.to_dict()["title"]
    tips = tooltip(group="group:N", **{at: f"{field}:N"}, mean="value:N", interval="interval:N", seeds="n:Q")
    lines = means.transform_filter(f"datum.{field} !== 'mean'").mark_line(strokeWidth=2.2, clip=True)
    return lines + means.mark_point(filled=True, size=46, opacity=1).encode(shape=shape, tooltip=tips)


def measures_in(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the measures that any of the rows of runs has, with their names."""
    return {name: title for name, title in MEASURES.items() if any(name in row for row in rows)}


def indices_in(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the indices that rows of indices have."""
    there = {row["index"] for row in rows}
    return [name for name in INDICES if name in there]
