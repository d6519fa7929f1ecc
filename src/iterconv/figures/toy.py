"""The toy inverse problem: traces in the plane, and errors of every perturbation (Fig. 1)."""

from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iterconv.figures.style import STAGE_COLOURS, new_figure, styled

TITLES = {
    "exact": "Iterative algorithm as a ResNet",
    "residual": "Trained ResNet",
    "recurrent": "Trained recurrent ResNet",
    "feedforward": "Trained, without shortcuts",
}
_FAMILIES = {
    "early read-out": (STAGE_COLOURS[0], "early read-out after t blocks"),
    "drop-out": (STAGE_COLOURS[2], "drop-out of block t"),
    "extra evaluation": (STAGE_COLOURS[1], "t extra evaluations of the last"),
}
LIMIT = 3.0
"""The end of the plane and of the error axis; nets without shortcuts leave both."""


def draw_toy(toy: pd.DataFrame) -> Figure:
    """Fig. 1: the four networks, one a column.

    Source: Lippl et al., Fig. 1. The first seed is traced; every seed has its error curves.

    Args:
        toy: ``Tables.toy``, the measurements of toy networks.

    Returns:
        The figure.
    """
    kinds = [kind for kind in TITLES if kind in set(toy["kind"])]
    with styled():
        figure = new_figure(2.9 * len(kinds), 5.6)
        panels = figure.subplots(2, len(kinds), squeeze=False)
        for column, kind in enumerate(kinds):
            own = toy[toy["kind"] == kind]
            _traces(panels[0][column], own[(own["point"] >= 0) & (own["seed"] == own["seed"].min())])
            panels[0][column].set_title(fill(TITLES[kind], 19))
            _errors(panels[1][column], own[own["point"] < 0])
        panels[0][0].set_ylabel("estimate of $z_2$")
        panels[1][0].set_ylabel("root mean\nsquared error")
        above, below = (axes.get_legend_handles_labels() for axes in panels[:, 0])
        figure.legend(*above, loc="outside upper center", ncols=len(above[1]))
        figure.legend(*below, loc="outside lower center", ncols=len(below[1]))
    return figure


def _traces(axes: Axes, traced: pd.DataFrame) -> None:
    for point, rows in traced.groupby("point"):
        first = point == traced["point"].min()
        for family, style in (("early read-out", "o-"), ("extra evaluation", "o--")):
            colour, _ = _FAMILIES[family]
            curve = rows[rows["perturbation"] == family].sort_values("position")
            label = {"early read-out": "read out early", "extra evaluation": "last block again"}[family]
            axes.plot(
                curve["z1"],
                curve["z2"],
                style,
                color=colour,
                markersize=2.5,
                linewidth=0.9,
                label=label if first else None,
            )
        truth = rows.iloc[0]
        axes.plot(truth["target1"], truth["target2"], "x", color="#111111", zorder=3, label="truth" if first else None)
    axes.set_xlim(-LIMIT, LIMIT)
    axes.set_ylim(-LIMIT, LIMIT)
    axes.set_aspect("equal")
    axes.set_xlabel("estimate of $z_1$")


def _errors(axes: Axes, measured: pd.DataFrame) -> None:
    for family, (colour, label) in _FAMILIES.items():
        for number, (_, curve) in enumerate(measured[measured["perturbation"] == family].groupby("seed")):
            axes.plot(
                curve["position"],
                curve["rmse"],
                color=colour,
                linewidth=0.9,
                alpha=0.6,
                label=label if number == 0 else None,
            )
    axes.set_ylim(0, LIMIT)
    axes.set_xlabel("t")
