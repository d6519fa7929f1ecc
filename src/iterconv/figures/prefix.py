"""Prefix sums: accuracy by length and by iterations, and the relative step, of every net."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from iterconv.figures.style import condition_colour, condition_label, conditions_of, new_figure, percent, styled

_LOWEST = 1e-8
"""The lower end of the axis of relative steps."""
_KINDS = {"nothing": "full recipe", "norm": "no norm", "progressive": "no progressive loss", "recall": "no recall"}


def draw_prefix(rows: pd.DataFrame, followed: int, stepped: int) -> Figure:
    """Draw one column for each kind of net: what it lacks of the recipe.

    Above, the share of right strings after the last iteration against their length; in the middle, that of one length
    against the iterations; below, the mean relative step on strings of another length against the iterations. Thin
    lines are nets and thick ones means over seeds; colours are conditions.

    Args:
        rows: ``Tables.prefix`` for one rule of what follows the last block.
        followed: The length of the strings in the middle.
        stepped: The length of the strings below.

    Returns:
        The figure.
    """
    kinds = [kind for kind in _KINDS if kind in set(rows["lacks"])]
    conditions = conditions_of(rows)
    with styled():
        figure = new_figure(1.2 + 2.6 * len(kinds), 7.2)
        panels = figure.subplots(3, len(kinds), squeeze=False, sharey="row")
        for column, kind in enumerate(kinds):
            own = rows[rows["lacks"] == kind]
            last = own[own["iterations"] == own["iterations"].max()]
            above, middle, below = panels[:, column]
            _lines(above, last, "length", "accuracy", conditions)
            _lines(middle, own[own["length"] == followed], "iterations", "accuracy", conditions)
            steps = own[own["length"] == stepped]
            _lines(
                below,
                steps.assign(residual=steps["residual"].clip(lower=_LOWEST)),
                "iterations",
                "residual",
                conditions,
            )
            above.set_title(_KINDS[kind])
            _finish(above, middle, below, sorted(rows["length"].unique()))
        _label(list(panels[:, 0]), int(rows["iterations"].max()), followed, stepped)
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", title="coupling")
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, x: str, y: str, conditions: list[tuple[str, float]]) -> None:
    """Draw every net thin, and the mean of each condition thick."""
    for number, (init, coupling) in enumerate(conditions):
        own = rows[(rows["init"] == init) & (rows["coupling"] == coupling)]
        colour = condition_colour(number)
        for _, net in own.groupby("name"):
            net = net.sort_values(x)
            axes.plot(net[x], net[y], "-", color=colour, linewidth=0.6, alpha=0.5)
        means = own.groupby(x)[y].mean()
        axes.plot(means.index, means, "-", color=colour, linewidth=1.8, label=condition_label(init, coupling))


def _finish(above: Axes, middle: Axes, below: Axes, lengths: list[int]) -> None:
    above.set_xscale("log", base=2)
    above.set_xticks(lengths, [str(length) for length in lengths])
    above.xaxis.set_minor_locator(NullLocator())
    for axes in (middle, below):
        axes.set_xscale("log")
    below.set_yscale("log")
    for axes in (above, middle):
        axes.set_ylim(-0.03, 1.03)
        percent(axes)
    above.set_xlabel("bits")
    middle.set_xlabel("iterations")
    below.set_xlabel("iterations")


def _label(panels: list[Axes], most: int, followed: int, stepped: int) -> None:
    panels[0].set_ylabel(f"strings right after\n{most} iterations")
    panels[1].set_ylabel(f"strings of\n{followed} bits right")
    panels[2].set_ylabel(f"relative step,\n{stepped} bits")
