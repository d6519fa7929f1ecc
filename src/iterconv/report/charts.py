"""Charts that reports share: their looks, and lines and dots with intervals.

Colours are custom properties of the page (`page.css`), so that dark mode and print need no other charts.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt

from iterconv.paths.families import family_of

COLOURS = [f"var(--c{number})" for number in range(8)]
SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"]
INK, QUIET = "var(--ink)", "var(--quiet)"
RATES = "indexof(['error', 'disagreement', 'exact_error'], chosen_metric) >= 0"
"""An expression that holds if the metric that the reader chose is a rate."""
_AXIS = {
    **dict.fromkeys(("domainColor", "tickColor"), "var(--rule)"),
    **{"gridColor": "var(--grid)", "labelColor": QUIET, "titleColor": INK, "titleFontWeight": "normal"},
    **{
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titlePadding": 8,
        "labelOverlap": "greedy",
        "labelSeparation": 6,
        "labelFlush": False,
        "tickCount": 6,
    },
}
_LEGEND = {
    **{"orient": "bottom", "direction": "horizontal", "labelColor": INK, "titleColor": QUIET},
    **{
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "symbolSize": 70,
        "symbolOpacity": 1,
        "columns": 3,
    },
    **{"labelLimit": 240, "columnPadding": 14, "rowPadding": 4, "titleOrient": "top", "offset": 12},
}


def finish(chart: Any, height: int = 240) -> Any:
    """Make a chart as wide as its place. Its looks are in ``LOOKS``, which pages add to each chart."""
    return chart.properties(width="container", height=height)


LOOKS: dict[str, Any] = {
    # A mark is no stop for a screen reader, since a plot has hundreds: the page describes each plot in words.
    "aria": False,
    "font": "system-ui, sans-serif",
    "background": "transparent",
    "padding": {"left": 2, "right": 14, "top": 8, "bottom": 4},
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": _LEGEND,
}


def data(name: str) -> Any:
    """Return the rows that a page keeps under a name."""
    return alt.NamedData(name=name)


def colour_by(field: str, order: Any) -> dict[str, Any]:
    """Encode a group by colour and shape, so that neither is needed alone.

    Args:
        field: The field of the group.
        order: All groups in their order, or an expression for them; so a group keeps its colour when others go.

    Returns:
        The channels color and shape.
    """
    legend = alt.Legend(title=None, columns=3 if isinstance(order, alt.ExprRef) or max(map(len, order)) < 16 else 1)
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=order, range=COLOURS), legend=legend, sort=None),
        "shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=order, range=SHAPES), legend=legend, sort=None),
    }


def tooltip(**fields: str) -> list[alt.Tooltip]:
    """Describe what is shown when a mark is pointed at: a title for each field, which may name its type and format."""
    made = []
    for title, field in fields.items():
        name, _, form = field.partition("|")
        written = form or alt.Undefined
        made.append(alt.Tooltip(name, title=title.replace("_", " "), format=written))
    return made


def interval_chart(
    rows: str,
    x: alt.X,
    group: str,
    order: Sequence[str],
    *,
    rate: str = "true",
    where: str = "true",
    joined: bool = True,
    chance: float | None = None,
) -> Any:
    """Draw values with intervals, a line for each group.

    Args:
        rows: The name of rows with the fields ``value``, ``low`` and ``high``, of which the last two may be missing.
        x: The horizontal axis.
        group: The field of the groups.
        order: All groups.
        rate: An expression that holds if the values are rates, which are written in percent.
        where: An expression that the rows have to satisfy.
        joined: False for dots without lines.
        chance: The error of guessing, up to which, and to 1, the axis of errors goes; None for one as long as needed.

    Returns:
        The finished chart.
    """
    chart = alt.Chart(data(rows)).transform_filter(where)
    colours = colour_by(group, list(order))
    scale = alt.Scale() if chance is None else unit_scale(rate)
    y = alt.Y("value:Q", axis=rate_axis(rate), scale=scale)
    at = x.to_dict()["field"]
    tips = tooltip(of=f"{group}:N", at=f"{at}:Q", value="value:Q|.4~g", low="low:Q|.4~g", high="high:Q|.4~g")
    dots = chart.mark_point(filled=True, size=44, opacity=1 if joined else 0.6).encode(
        x=x, y=y, **colours, tooltip=tips
    )
    layers = [] if chance is None else [draw_chance(chart.transform_calculate(chance=str(chance)), "n")]
    if joined:
        low = alt.Y("low:Q", axis=rate_axis(rate))
        layers.append(chart.mark_area(opacity=0.16).encode(x=x, y=low, y2="high:Q", color=colours["color"]))
        layers.append(chart.mark_line(strokeWidth=2).encode(x=x, y=y, color=colours["color"]))
    return finish(alt.layer(*layers, dots))


def draw_chance(chart: Any, group: str) -> Any:
    """Draw the error of guessing, the field ``chance``, once for each value of a field, if errors are shown."""
    return (
        chart.transform_filter("chosen_metric === 'error'")
        .transform_aggregate(chance="max(chance)", groupby=[group])
        .mark_rule(strokeDash=[2, 3], color=QUIET)
        .encode(y=alt.Y("chance:Q"), tooltip=tooltip(error_of_guessing="chance:Q|.1%"))
    )


def unit_scale(rate: str) -> alt.Scale:
    """Let an axis end at 1 if an expression holds, so that panels of error rates can be compared."""
    return alt.Scale(domainMax=alt.ExprRef(f"{rate} ? 1 : null"), nice=False)


def title_of(family: str) -> str:
    """Name the panel of a family of perturbations."""
    title = family_of(family).title
    return title if title.lower() == family else f"{title}: {family}"


def rate_axis(condition: str = "true", title: str | None = None) -> alt.Axis:
    """Label an axis in percent where an expression holds, and with plain numbers elsewhere."""
    return alt.Axis(labelExpr=in_words("datum.value", condition), title=title)


def in_words(value: str, condition: str) -> str:
    """Write an expression for the text of a number: in percent where a condition holds, else a plain number."""
    return f"{condition} ? format({value}, '.2~%') : format({value}, abs({value}) < 1000 ? '.4~g' : '.4~s')"


def counting(field: str, title: str) -> alt.X:
    """Make a horizontal axis of whole numbers."""
    scale = alt.Scale(zero=False, nice=False)
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format="d", tickMinStep=1))
