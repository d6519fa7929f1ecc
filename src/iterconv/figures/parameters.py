"""Effective parameter counts (Fig. 7)."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iterconv.figures.style import (
    condition_colour,
    condition_label,
    conditions_of,
    counts,
    dots,
    label_conditions,
    new_figure,
    same_scale,
    styled,
    wide_enough,
    width_colour,
)


def draw_parameters(runs: pd.DataFrame) -> Figure:
    """Fig. 7: effective against raw count; error against both; mean deviation against coupling.

    Source: Lippl et al., Fig. 7.

    Args:
        runs: ``Tables.runs`` of one architecture.

    Returns:
        The figure.
    """
    with styled():
        figure = new_figure(8, 6)
        panels = list(figure.subplots(2, 2).flat)
        for number, (init, coupling) in enumerate(conditions_of(runs)):
            own = runs[(runs.init == init) & (runs.coupling == coupling)]
            style: dict[str, Any] = {
                "color": condition_colour(number),
                "label": condition_label(init, coupling),
                "alpha": 0.65,
                "markersize": 5,
                "markeredgewidth": 0,
                "linestyle": "none",
                "marker": "o",
            }
            panels[0].plot(own["raw"], own["effective"], **style)
            panels[1].plot(own["raw"], own["test_error"], **style)
            panels[2].plot(own["effective"], own["test_error"], **style)
        _label(panels[0], "raw parameters", "effective parameters")
        low, high = runs["raw"].min(), runs["raw"].max()
        panels[0].plot([low, high], [low, high], color="#999999", linewidth=0.8, linestyle="--")
        counts(panels[0], "y")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", title="coupling")
        for axes, label in ((panels[1], "raw parameters"), (panels[2], "effective parameters")):
            _label(axes, label, "test error")
            wide_enough(axes)
        same_scale(panels[1:3])
        _deviations(panels[3], runs)
    return figure


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    counts(axes, "x")


def _deviations(axes: Axes, runs: pd.DataFrame) -> None:
    conditions = conditions_of(runs)
    for width, of_width in runs.groupby("width"):
        for place, (init, coupling) in enumerate(conditions):
            values = of_width[(of_width.init == init) & (of_width.coupling == coupling)]["mean_deviation"]
            dots(axes, place, values, width_colour(width))
        axes.plot([], [], "o", color=width_colour(width), label=str(width))
    label_conditions(axes, conditions)
    axes.set_ylabel("mean deviation\nof blocks")
    axes.set_ylim(bottom=-0.02)
    axes.legend(title="width")
