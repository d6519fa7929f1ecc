"""Pictures of exit rules: error against the mean number of executed blocks."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.style import STAGE_COLOURS, new_figure, percent, styled

NAMES = {
    "confidence": "confidence",
    "agreement": "agreement of read-outs",
    "kl": "divergence of read-outs",
    "residual": "relative residual",
    "depth": "same depth for all",
}


def draw_exits(frontier: pd.DataFrame, options: dict[str, Any]) -> Figure:
    """Draw error against mean blocks executed, one line a rule, with the intervals of both.

    Args:
        frontier: The frontier of an ``Exits``.
        options: Its options.

    Returns:
        The figure.
    """
    with styled():
        figure = new_figure(6.4, 3.8)
        axes = figure.subplots()
        for number, rule in enumerate(options["rules"]):
            rows = frontier[frontier["rule"] == rule].sort_values("blocks")
            colour = "#777777" if rule == "depth" else STAGE_COLOURS[number % len(STAGE_COLOURS)]
            line = ":" if rule == "depth" else "-"
            axes.plot(rows["blocks"], rows["error"], line, color=colour, linewidth=1.3, label=NAMES[rule])
            axes.errorbar(
                rows["blocks"],
                rows["error"],
                xerr=_arms(rows, "blocks", "blocks_low", "blocks_high"),
                yerr=_arms(rows, "error", "low", "high"),
                fmt="o",
                color=colour,
                markersize=3,
                elinewidth=0.6,
                alpha=0.7,
            )
        whole = frontier[frontier["blocks"] == options["blocks"]]
        axes.axhline(whole["error"].iloc[-1], color="#bbbbbb", linewidth=0.8, zorder=0)
        what = "labels" if options["against"] == "labels" else "own predictions"
        axes.set_xlabel(f"mean blocks executed (all: {options['blocks']})")
        axes.set_ylabel(f"error against {what} (n = {frontier['n'].iloc[0]})")
        axes.set_ylim(0, min(1.0, 1.1 * float(frontier["error"].max()) + 0.01))
        percent(axes)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _arms(rows: pd.DataFrame, value: str, low: str, high: str) -> list[pd.Series]:
    """The lengths of error bars; 0 where nothing was resampled."""
    # Resamples are in single precision, so that an interval of one point may miss it by rounding.
    return [(rows[value] - rows[low]).clip(lower=0).fillna(0), (rows[high] - rows[value]).clip(lower=0).fillna(0)]
