"""Errors in the course of training (Fig. 5)."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.style import (
    condition_colour,
    condition_label,
    conditions_of,
    new_figure,
    paper_style,
    percent,
)


def draw_training(history: pd.DataFrame) -> Figure:
    """Fig. 5: training and validation error against the epoch, a line a condition.

    Source: Lippl et al., Fig. 5. Lines are means over the seeds, bands reach from the lowest to the highest.

    Args:
        history: ``Tables.history`` of one setting and width.

    Returns:
        The figure.
    """
    with paper_style():
        figure = new_figure(8, 3)
        panels = list(figure.subplots(1, 2, sharey=True))
        for axes, (column, title) in zip(
            panels, {"train_error": "Training", "selection_error": "Validation"}.items(), strict=True
        ):
            for number, (init, coupling) in enumerate(conditions_of(history)):
                own = history[(history["init"] == init) & (history["coupling"] == coupling)]
                epochs = own.groupby("epoch")[column].agg(["mean", "min", "max"])
                colour, label = condition_colour(number), condition_label(init, coupling)
                axes.plot(epochs.index, epochs["mean"], "-", color=colour, linewidth=1.3, label=label)
                axes.fill_between(epochs.index, epochs["min"], epochs["max"], color=colour, alpha=0.15, linewidth=0)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            percent(axes)
        panels[0].set_ylabel("error")
        panels[0].set_ylim(bottom=0)
        panels[1].legend(title="coupling")
    return figure
