"""Pictures of spans: heat maps of the error with every span of blocks dropped, repeated or swapped."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from iterconv.figures.style import new_figure, styled

TITLES = {"drop": "dropped", "repeat": "executed twice", "swap": "ends swapped"}


def draw_spans(table: pd.DataFrame, intact_error: float) -> Figure:
    """Draw a map for each stage and kind, with the error of the ordinary pass as the middle of the scale.

    Args:
        table: The table of a `SpanMap`.
        intact_error: The error of the ordinary pass, in [0, 1].

    Returns:
        The figure.
    """
    stages, kinds = sorted(table["stage"].unique()), list(dict.fromkeys(table["kind"]))
    least, most = float(table["error"].min()), float(table["error"].max())
    # Equal steps of colour on both sides, so that a gain looks no larger than a loss of the same size.
    width = max(most - intact_error, intact_error - least, 1e-3)
    norm = Normalize(intact_error - width, intact_error + width)
    with styled():
        figure = new_figure(3.1 * len(kinds) + 0.9, 2.9 * len(stages))
        panels = figure.subplots(len(stages), len(kinds), squeeze=False)
        for row, stage in zip(panels, stages, strict=True):
            for axes, kind in zip(row, kinds, strict=True):
                own = table[(table["stage"] == stage) & (table["kind"] == kind)]
                image = _draw_map(axes, own, int(table[table["stage"] == stage]["end"].max()), norm)
                axes.set_title(f"stage {stage + 1}: span {TITLES[kind]}")
        bar = figure.colorbar(image, ax=panels, label="error", format=PercentFormatter(1, decimals=0), shrink=0.8)
        bar.ax.set_ylim(min(least, intact_error), max(most, intact_error + 1e-3))
        bar.ax.axhline(intact_error, color="black", linewidth=1)
        bar.ax.text(-0.3, intact_error, "intact", ha="right", va="center", fontsize=7)
    return figure


def _draw_map(axes: Axes, spans: pd.DataFrame, blocks: int, norm: Normalize) -> Any:
    """Draw one map: the first block of the span downwards, the last one to the right."""
    values = np.full((blocks, blocks), np.nan)
    values[spans["start"], spans["end"] - 1] = spans["error"]
    image = axes.imshow(values, norm=norm, cmap="RdBu_r")
    names = [str(block + 1) if blocks <= 16 or block % 4 == 0 else "" for block in range(blocks)]
    axes.set_xticks(range(blocks), names, fontsize=6)
    axes.set_yticks(range(blocks), names, fontsize=6)
    axes.set_xlabel("last block of the span")
    axes.set_ylabel("first block of the span")
    return image
