"""Pictures of depth: states that settle or don't, and errors against executed blocks."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from iterconv.figures.style import STAGE_COLOURS, new_figure, percent, styled, wide_enough

BLUE, RED, GREY = STAGE_COLOURS[0], STAGE_COLOURS[1], "#999999"


def draw_settling(steps: pd.DataFrame, verdicts: pd.DataFrame, options: dict[str, Any]) -> Figure:
    """Draw error and agreement, relative residuals, growth rates, and the verdicts crossed with right and wrong.

    Args:
        steps: The steps of a ``Settling``.
        verdicts: Its number of examples by verdict, and by right and wrong.
        options: Its options.

    Returns:
        The figure.
    """
    with styled():
        figure = new_figure(11, 3.1)
        errors, residuals, growths, counts = figure.subplots(1, 4)
        _draw_errors(errors, steps, options["against"])
        figure.legend(*errors.get_legend_handles_labels(), loc="outside lower left", ncols=3)
        _draw_residuals(residuals, steps)
        _draw_growth(growths, steps, options["growth"])
        _draw_verdicts(counts, verdicts)
        start, end = options["span"]
        what = f"block {start + 1}" if end - start == 1 else f"blocks {start + 1} to {end}"
        for axes in (errors, residuals, growths):
            axes.set_xlabel(f"further applications of {what}")
            steps_axis(axes, int(steps["step"].max()))
    return figure


def _draw_errors(axes: Axes, steps: pd.DataFrame, against: str) -> None:
    what = "labels" if against == "labels" else "own predictions"
    axes.plot(steps["step"], steps["error"], "o-", color=RED, markersize=3, label=f"error against {what}")
    axes.plot(steps["step"], 1 - steps["agreement"], color=BLUE, label="disagreement with step 0")
    if (steps["finite"] < 1).any():
        axes.plot(steps["step"], 1 - steps["finite"], ":", color="black", label="states not finite")
    axes.set_title("Does it stay right?")
    wide_enough(axes)


def _draw_residuals(axes: Axes, steps: pd.DataFrame) -> None:
    shown = steps[steps["residual_high"] > 0]
    axes.fill_between(shown["step"], shown["residual_low"], shown["residual_high"], color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(shown["step"], shown["residual"].where(shown["residual"] > 0), "o-", color=BLUE, markersize=3)
    axes.set_title("Does it settle?")
    axes.set_ylabel("relative residual (median, quartiles)")
    if len(shown):
        axes.set_yscale("log")
    else:
        axes.text(0.5, 0.5, "no step at all", ha="center", transform=axes.transAxes)


def _draw_growth(axes: Axes, steps: pd.DataFrame, measured: bool) -> None:
    axes.set_title("Does it converge?")
    if measured and steps["growth"].notna().any():
        axes.plot(steps["step"], steps["growth"], "o-", color=BLUE, markersize=3)
        axes.axhline(1, color=GREY, linestyle="--", linewidth=0.8)
        axes.set_ylabel("spectral radius (median)")
    else:
        axes.text(0.5, 0.5, "growth rates were not measured", ha="center", transform=axes.transAxes)


def _draw_verdicts(axes: Axes, verdicts: pd.DataFrame) -> None:
    places = np.arange(len(verdicts))
    total = max(int(verdicts.to_numpy().sum()), 1)
    right, wrong = verdicts["right"] / total, verdicts["wrong"] / total
    axes.barh(places, right, color=BLUE, label="right at the end")
    axes.barh(places, wrong, left=right, color=RED, label="wrong")
    axes.set_yticks(places, list(verdicts.index))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    percent(axes, "x")
    axes.set_title("Verdicts")
    axes.set_xlabel(f"examples (n = {total})")
    axes.legend()


def steps_axis(axes: Axes, most: int) -> None:
    """Make a logarithmic axis of steps that has a place for 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    ticks = [0, *(10**power for power in range(len(str(most))))]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlim(-0.05, most * 1.15)


def draw_depth(
    curve: pd.DataFrame, examples: pd.DataFrame, options: dict[str, Any], best: int, overthinking: int | None
) -> Figure:
    """Draw error and agreement against executed blocks, and the distribution of settling depths.

    Args:
        curve: The curve of a ``Depth``.
        examples: Its examples.
        options: Its options.
        best: The depth with the lowest error.
        overthinking: The depth from which on it is worse; None if there is none.

    Returns:
        The figure.
    """
    with styled():
        figure = new_figure(9, 3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        what = "labels" if options["against"] == "labels" else "own predictions"
        left.plot(curve["depth"], curve["error"], "o-", color=RED, markersize=3, label=f"error against {what}")
        left.plot(curve["depth"], 1 - curve["agreement"], color=BLUE, label="disagreement with the trained depth")
        for edge in np.cumsum(options["stages"])[:-1]:
            left.axvline(edge + 0.5, color=GREY, linewidth=0.6)
        left.axvline(options["trained"], color="black", linestyle=":", linewidth=1, label="trained depth")
        lowest = curve.set_index("depth")["error"][best]
        left.plot(best, lowest, "*", color="black", markersize=10, label=f"best depth: {best}")
        if overthinking is not None:
            left.axvline(overthinking, color=RED, linestyle="--", linewidth=0.8, label=f"worse from {overthinking} on")
        left.set_ylim(0, 1)
        percent(left)
        left.set_xlabel("executed blocks")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
        _draw_settling_depths(right, examples, options["trained"])
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_settling_depths(axes: Axes, examples: pd.DataFrame, trained: int) -> None:
    depths = np.arange(1, trained + 1)
    for is_right, colour, label in ((True, BLUE, "right"), (False, RED, "wrong")):
        own = examples[examples["right"] == is_right]["settling_depth"].to_numpy(dtype=float)
        if len(own):
            decided = [(own <= depth).mean() for depth in depths]
            axes.step(
                depths, decided, where="post", color=colour, label=f"{label} at the trained depth (n = {len(own)})"
            )
    axes.set_ylim(0, 1.02)
    percent(axes)
    axes.set_xlabel("executed blocks")
    axes.set_ylabel("examples that are decided")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
