"""Variants of coupling and initialisation (Fig. 8, 9, 10), and other data sets (Fig. 13)."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.coupling import against_coupling, draw_line
from iterconv.figures.style import (
    condition_colour,
    conditions_of,
    label_conditions,
    new_figure,
    percent,
    styled,
    unit_scale,
    variant_label,
    wide_enough,
)
from iterconv.indices import INDICES

_COLUMNS = 3
"""Panels side by side."""


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
    with styled():
        rows = -(-len(measures) // _COLUMNS)
        figure = new_figure(9.5, 2.7 * rows)
        panels = list(figure.subplots(rows, _COLUMNS).flat)
        for axes in panels[len(measures) :]:
            axes.set_axis_off()
        for axes, (column, title) in zip(panels, measures.items(), strict=False):
            for number, (key, own) in enumerate(groups):
                shift = (number - len(groups) / 2) * 0.06
                draw_line(axes, own, column, conditions, condition_colour(number), variant_label(*key), shift)
            axes.set_title(title)
            label_conditions(axes, conditions)
        wide_enough(panels[0])
        unit_scale(panels[2 : len(measures)])
        lines, labels = panels[0].get_legend_handles_labels()
        if len(panels) > len(measures):
            panels[-1].legend(lines, labels, loc="center")
        else:
            figure.legend(lines, labels, loc="outside lower center", ncols=_COLUMNS)
    return figure


def draw_data_sets(settings: Mapping[str, pd.DataFrame]) -> Figure:
    """Fig. 13: error against coupling on each data set; last, the exact-set error where images have several labels.

    Source: Lippl et al., Fig. 13.

    Args:
        settings: ``Tables.runs`` of each setting, by its label.

    Returns:
        The figure.
    """
    shown = [(label, runs, "test_error", "test error") for label, runs in settings.items()]
    shown += [
        (label, runs, "test_exact_error", "sets not exactly right")
        for label, runs in settings.items()
        if _has_sets(runs)
    ]
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    with styled():
        figure = new_figure(9.5 / _COLUMNS * columns, 2.7 * rows)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        for axes, (label, runs, column, measure) in zip(panels, shown, strict=False):
            against_coupling(axes, runs.assign(**{column: runs[column].astype(float)}), column)
            axes.set_title(label.replace(", ", ",\n", 1), fontsize="small")
            axes.set_ylabel(measure)
            axes.set_ylim(0, 1.1 * max(float(runs[column].max()), 0.01))
            percent(axes)
        handles = [axes.get_legend_handles_labels() for axes in panels]
        lines = {label: line for both in handles for line, label in zip(*both, strict=True)}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines))
    return figure


def _has_sets(runs: pd.DataFrame) -> bool:
    return "test_exact_error" in runs and bool(runs["test_exact_error"].notna().any())
