"""Variants of coupling and initialisation (Fig. 8, 9, 10), and other data sets (Fig. 13)."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iterconv.figures.coupling import against_coupling, draw_line
from iterconv.figures.style import (
    condition_colour,
    conditions_of,
    label_conditions,
    new_figure,
    paper_style,
    percent,
    variant_label,
)
from iterconv.indices import INDICES


def draw_variants(runs: pd.DataFrame) -> Figure:
    """Fig. 8, 9, 10: error, deviation between blocks and indices against coupling, a line a variant.

    Source: Lippl et al., Fig. 8 to 10.

    Args:
        runs: ``Tables.runs`` of one setting and width, in all its variants.

    Returns:
        The figure.
    """
    keys = ["norm_scale", "kernel", "first_coupled"]
    groups = sorted(runs.groupby(keys), key=lambda item: variant_label(*item[0]) != "standard")
    conditions = conditions_of(runs)
    measures = {"test_error": "Error", "mean_deviation": "Mean deviation of blocks"}
    measures |= {index.name: index.title for index in INDICES.values()}
    with paper_style():
        figure = new_figure(2.6 * len(measures), 3.4)
        panels = list(figure.subplots(1, len(measures)))
        for axes, (column, title) in zip(panels, measures.items(), strict=True):
            for number, (key, own) in enumerate(groups):
                shift = (number - len(groups) / 2) * 0.06
                draw_line(axes, own, column, conditions, condition_colour(number), variant_label(*key), shift)
            axes.set_title(title)
            label_conditions(axes, conditions)
        percent(panels[0])
        lines, labels = panels[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels))
    return figure


def draw_data_sets(settings: Mapping[str, pd.DataFrame]) -> Figure:
    """Fig. 13: error against coupling on each data set; below, the exact-set error where images have several labels.

    Source: Lippl et al., Fig. 13.

    Args:
        settings: ``Tables.runs`` of each setting, by its label.

    Returns:
        The figure.
    """
    exact = any(_has_sets(runs) for runs in settings.values())
    with paper_style():
        figure = new_figure(max(3.2 * len(settings), 4), 5.4 if exact else 2.9)
        panels = figure.subplots(2 if exact else 1, len(settings), squeeze=False)
        for number, (label, runs) in enumerate(settings.items()):
            _errors(panels[0][number], runs, "test_error")
            panels[0][number].set_title(label.replace(", ", ",\n", 1), fontsize=8)
            if not exact:
                continue
            if _has_sets(runs):
                _errors(panels[1][number], runs, "test_exact_error")
            else:
                panels[1][number].set_axis_off()
        panels[0][0].set_ylabel("test error")
        panels[0][0].legend(title="width")
        if exact:
            first = next(number for number, runs in enumerate(settings.values()) if _has_sets(runs))
            panels[1][first].set_ylabel("sets not exactly right")
    return figure


def _has_sets(runs: pd.DataFrame) -> bool:
    return "test_exact_error" in runs and bool(runs["test_exact_error"].notna().any())


def _errors(axes: Axes, runs: pd.DataFrame, column: str) -> None:
    against_coupling(axes, runs, column)
    values = runs[column].astype(float)
    room = max(values.max() - values.min(), 0.02) * 0.25
    axes.set_ylim(max(0, values.min() - room), values.max() + room)
    percent(axes)
