"""The picture of a damping sweep: errors, residuals and verdicts for each part of a step."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.settling import steps_axis
from iterconv.figures.style import STAGE_COLOURS, new_figure, percent, styled, wide_enough

GREYS = ("#dddddd", "#b3b3b3", "#888888", "#5c5c5c", "#333333", "#000000")
"""The colours of verdicts, which are not those of the lines beside them."""


def draw_sweep(steps: pd.DataFrame, verdicts: pd.DataFrame, options: dict[str, Any]) -> Figure:
    """Draw errors and relative residuals against steps, one line for each damping, and the shares of verdicts.

    Args:
        steps: The steps of a ``DampingSweep``.
        verdicts: Its shares of verdicts.
        options: Its options.

    Returns:
        The figure.
    """
    with styled():
        figure = new_figure(11, 3.4)
        errors, residuals, shares = figure.subplots(1, 3)
        for number, (damping, own) in enumerate(steps.groupby("damping", sort=False)):
            colour = STAGE_COLOURS[number % len(STAGE_COLOURS)]
            errors.plot(own["step"], own["error"], "o-", color=colour, markersize=3, label=f"part {damping:g}")
            own = own[own["residual"] > 0]
            residuals.plot(own["step"], own["residual"], "o-", color=colour, markersize=3)
        figure.legend(*errors.get_legend_handles_labels(), loc="outside lower left", ncols=6)
        start, end = options["span"]
        what = f"block {start + 1}" if end - start == 1 else f"blocks {start + 1} to {end}"
        for axes in (errors, residuals):
            axes.set_xlabel(f"further applications of {what}")
            steps_axis(axes, int(steps["step"].max()))
        wide_enough(errors)
        errors.set_title("Does it stay right?")
        against = "labels" if options["against"] == "labels" else "own predictions"
        errors.set_ylabel(f"error against {against} (n = {options['examples']})")
        if residuals.lines:
            residuals.set_yscale("log")
        residuals.set_title("Does it settle?")
        residuals.set_ylabel("relative residual (median)")
        _draw_verdicts(shares, verdicts)
        figure.legend(*shares.get_legend_handles_labels(), loc="outside lower right", ncols=6)
    return figure


def _draw_verdicts(axes: Any, verdicts: pd.DataFrame) -> None:
    places, left = np.arange(len(verdicts)), np.zeros(len(verdicts))
    shown = verdicts.loc[:, (verdicts > 0).any()]
    for colour, name in zip(GREYS, shown, strict=False):
        axes.barh(places, shown[name], left=left, color=colour, label=name)
        left = left + shown[name].to_numpy()
    axes.set_yticks(places, [f"{damping:g}" for damping in verdicts.index])
    axes.set_ylabel("part of each step")
    axes.set_xlim(0, 1)
    percent(axes, "x")
    axes.set_title("Verdicts")
    axes.set_xlabel("examples")
