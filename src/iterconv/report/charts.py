"""Charts that reports share: their looks, and lines and dots with intervals.

Colours are custom properties of the page (`page.css`), so that dark mode and print need no other charts.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt

COLOURS = [f"var(--c{number})" for number in range(8)]
SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"]
FONT = "system-ui, sans-serif"
INK, QUIET = "var(--ink)", "var(--quiet)"
RATES = "indexof(['error', 'disagreement', 'exact_error'], chosen_metric) >= 0"
"""An expression that holds if the metric that the reader chose is a rate."""
_AXIS = {
    **dict.fromkeys(("domainColor", "tickColor"), "var(--rule)"),
    **{"gridColor": "var(--grid)", "labelColor": QUIET, "titleColor": INK, "titleFontWeight": "normal"},
    **{"labelFontSize": 12, "titleFontSize": 12, "titlePadding": 8, "labelOverlap": "greedy", "labelFlush": False},
}
_LEGEND = {
    **{"orient": "bottom", "direction": "horizontal", "labelColor": INK, "titleColor": QUIET},
    **{"titleFontWeight": "normal", "labelFontSize": 12, "titleFontSize": 12, "symbolSize": 70, "columns": 3},
    **{"labelLimit": 180, "columnPadding": 14, "rowPadding": 4, "titleOrient": "top", "offset": 12},
}


def finish(chart: Any, height: int = 240) -> Any:
    """Give a chart its looks: as wide as its place, without marks of its own for screen readers.

    Choice: a mark is no stop for a screen reader, since a plot has hundreds. The page describes each plot in words, and
    the numbers are in its tables.
    """
    return (
        chart.properties(width="container", height=height, autosize={"type": "fit-x", "contains": "padding"})
        .configure(aria=False, font=FONT, background="transparent")
        .configure_view(stroke=None)
        .configure_axis(**_AXIS)
        .configure_legend(**_LEGEND)
    )


def data(name: str) -> Any:
    """Return the rows that a page keeps under a name."""
    return alt.NamedData(name=name)


def colour_by(field: str, order: Any, title: str | None = None) -> dict[str, Any]:
    """Encode a group by colour and shape, so that neither is needed alone.

    Args:
        field: The field of the group.
        order: All groups in their order, or an expression for them; so a group keeps its colour when others go.
        title: The title of the legend.

    Returns:
        The channels color and shape.
    """
    legend = alt.Legend(title=title) if title else alt.Legend(title=None)
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=order, range=COLOURS), legend=legend, sort=None),
        "shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=order, range=SHAPES), legend=legend, sort=None),
    }


def tooltip(**fields: str) -> list[alt.Tooltip]:
    """Describe what is shown when a mark is pointed at: a title for each field, which may name its type and format."""
    made = []
    for title, field in fields.items():
        name, _, form = field.partition("|")
        made.append(alt.Tooltip(name, title=title.replace("_", " "), **({"format": form} if form else {})))
    return made


def interval_chart(
    rows: str, x: alt.X, group: str, order: Sequence[str], axis: alt.Axis, where: str = "true", joined: bool = True
) -> Any:
    """Draw values with intervals, a line for each group.

    Args:
        rows: The name of rows with the fields ``value``, ``low`` and ``high``, of which the last two may be missing.
        x: The horizontal axis.
        group: The field of the groups.
        order: All groups.
        axis: The labels of the vertical axis.
        where: An expression that the rows have to satisfy.
        joined: False for dots without lines.

    Returns:
        The finished chart.
    """
    chart = alt.Chart(data(rows)).transform_filter(where)
    colours = colour_by(group, list(order))
    y = alt.Y("value:Q", axis=axis)
    at = str(x.to_dict()["field"])
    tips = tooltip(of=f"{group}:N", at=f"{at}:Q", value="value:Q|.4~g", low="low:Q|.4~g", high="high:Q|.4~g")
    dots = chart.mark_point(filled=True, size=44, opacity=1 if joined else 0.6).encode(
        x=x, y=y, **colours, tooltip=tips
    )
    if not joined:
        return finish(dots)
    band = chart.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q", axis=axis), y2="high:Q", color=colours["color"])
    return finish(band + chart.mark_line(strokeWidth=2).encode(x=x, y=y, color=colours["color"]) + dots)


def rate_axis(condition: str = "true") -> alt.Axis:
    """Label an axis in percent where an expression holds, and with plain numbers elsewhere."""
    return alt.Axis(labelExpr=f"{condition} ? format(datum.value, '.0~%') : format(datum.value, '~g')", title=None)


def counting(field: str, title: str) -> alt.X:
    """Make a horizontal axis of whole numbers."""
    return alt.X(f"{field}:Q", title=title, axis=alt.Axis(format="d", tickMinStep=1))
