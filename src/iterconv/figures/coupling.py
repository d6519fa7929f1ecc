"""Indices and error against coupling, by width (Fig. 3, 4, 11, 12)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.style import (
    condition_label,
    conditions_of,
    dots,
    label_conditions,
    new_figure,
    same_scale,
    styled,
    unit_scale,
    wide_enough,
    width_colour,
)
from iterconv.indices import INDICES


def draw_coupling(runs: pd.DataFrame, baseline: pd.DataFrame | None = None) -> Figure:
    """Fig. 3, 4, 12: indices against coupling; error against coupling; error against indices.

    Source: Lippl et al., Fig. 3. Every seed is a dot, lines join means; in the lower right, lines join the
    conditions of one width, that is, of equal raw parameter count.

    Args:
        runs: ``Tables.runs`` of one architecture and one kind of residual function.
        baseline: The same of unconstrained nets, drawn dashed for comparison.

    Returns:
        The figure.
    """
    with styled():
        figure = new_figure(9.5 / 3 * len(INDICES), 5.4)
        panels = figure.subplots(2, len(INDICES))
        for axes, index in zip(panels[0], INDICES.values(), strict=True):
            against_coupling(axes, runs, index.name)
            axes.set_title(index.title)
        unit_scale(panels[0])
        error = panels[1][0]
        if baseline is not None and len(baseline):
            _baseline(error, runs, baseline)
        against_coupling(error, runs, "test_error")
        error.set_ylabel("test error")
        error.set_title("Error")
        wide_enough(error, x=0)
        # The recurrence index hardly varies, so that the error has no relation to it.
        for axes, name in zip(panels[1][1:], (name for name in INDICES if name != "recurrence"), strict=True):
            _error_against(axes, runs, name)
        same_scale(panels[1])
        if runs["width"].nunique() > 1 or baseline is not None:
            handles, labels = error.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def against_coupling(axes: Axes, runs: pd.DataFrame, column: str) -> None:
    """Draw a column against the conditions: every seed a dot, a line through the means of each width."""
    conditions = conditions_of(runs)
    for width, of_width in runs.groupby("width"):
        draw_line(axes, of_width, column, conditions, width_colour(width), f"width {width}")
    label_conditions(axes, conditions)
    axes.set_xlim(-0.4, len(conditions) - 0.6)


def draw_line(
    axes: Axes,
    runs: pd.DataFrame,
    column: str,
    conditions: list[tuple[str, float]],
    colour: str,
    label: str,
    shift: float = 0,
) -> None:
    """Draw a line through the means of a column over the conditions, and a dot for each seed.

    Args:
        axes: The axes, on which condition number i is at x = i.
        runs: ``Tables.runs`` of the nets of one line.
        column: The column that is drawn.
        conditions: All conditions of the axis; those that the line lacks are left out of it.
        colour: The colour of the line and its dots.
        label: The label of the line in the legend.
        shift: The distance of the line from the conditions on the x axis, so that several lines stay apart.
    """
    by_condition = {
        (str(init), float(str(coupling))): values
        for (init, coupling), values in runs.groupby(["init", "coupling"])[column]
    }
    there = [(place + shift, by_condition[c]) for place, c in enumerate(conditions) if c in by_condition]
    for place, values in there:
        dots(axes, place, values, colour)
    places, means = [place for place, _ in there], [values.mean() for _, values in there]
    axes.plot(places, means, "-", color=colour, linewidth=1.4, label=label)


def _baseline(axes: Axes, runs: pd.DataFrame, baseline: pd.DataFrame) -> None:
    conditions = conditions_of(runs)
    for width, of_width in baseline[baseline.width.isin(runs.width)].groupby("width"):
        means = of_width.groupby(["init", "coupling"])["test_error"].mean()
        there = [(place, means[c]) for place, c in enumerate(conditions) if c in means.index]
        if there:
            label = f"width {width}, unconstrained"
            axes.plot(*zip(*there, strict=True), "--", color="#888888", linewidth=1, label=label)


def _error_against(axes: Axes, runs: pd.DataFrame, name: str) -> None:
    for width, of_width in runs.groupby("width"):
        colour = width_colour(width)
        axes.plot(
            of_width[name], of_width["test_error"], "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0
        )
        means = of_width.groupby(["coupling", "init"])[[name, "test_error"]].mean()
        axes.plot(means[name], means["test_error"], "-", color=colour, linewidth=1)
        there = means.dropna()
        # Only the ends of the line are named, to leave room.
        for (coupling, init), row in there.iloc[[0, -1] if len(there) > 1 else []].iterrows():
            place = (row[name], row["test_error"])
            label = condition_label(init, coupling)
            axes.annotate(label, place, fontsize="x-small", xytext=(3, 3), textcoords="offset points")
    axes.set_xlabel(INDICES[name].title)
    axes.set_title(f"Error against {name}")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    wide_enough(axes)
