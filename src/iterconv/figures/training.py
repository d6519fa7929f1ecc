"""Errors in the course of training (Fig. 5)."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.style import (
    condition_colour,
    condition_label,
    conditions_of,
    new_figure,
    styled,
    wide_enough,
)


def draw_training(history: pd.DataFrame) -> Figure:
    """Fig. 5: training and validation error against the epoch, a line a condition.

    Source: Lippl et al., Fig. 5. Thin lines are nets, thick ones means over seeds.

    Args:
        history: ``Tables.history`` of one setting and width.

    Returns:
        The figure.
    """
    with styled():
        figure = new_figure(8, 3)
        panels = list(figure.subplots(1, 2, sharey=True))
        for axes, (column, title) in zip(
            panels, {"train_error": "Training", "selection_error": "Validation"}.items(), strict=True
        ):
            for number, (init, coupling) in enumerate(conditions_of(history)):
                own = history[(history["init"] == init) & (history["coupling"] == coupling)]
                colour, label = condition_colour(number), condition_label(init, coupling)
                for _, net in own.groupby("name"):
                    axes.plot(net["epoch"], net[column], "-", color=colour, linewidth=0.5, alpha=0.5)
                means = own.groupby("epoch")[column].mean()
                axes.plot(means.index, means, "-", color=colour, linewidth=1.5, label=label)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel("error")
        wide_enough(panels[0], x=0)
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper", title="coupling")
    return figure
