"""Pictures of one model: the curves of a report, and the frontier of a plan."""

from itertools import accumulate
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.curves import finish_panel
from iterconv.figures.style import new_figure, percent, stage_colour, styled
from iterconv.indices import INDICES
from iterconv.indices.recurrence import RECURRENCE


def draw_report(curves: pd.DataFrame, indices: pd.DataFrame, options: dict[str, Any]) -> Figure:
    """Draw the error along each family of perturbations, a line a stage, with intervals.

    Args:
        curves: The curves of a report of ``iterconv.measure``.
        indices: Its indices.
        options: Its options, of which ``chance`` and ``against`` are shown.

    Returns:
        The figure.
    """
    errors = curves[curves.metric == "error"]
    families = list(dict.fromkeys(errors.perturbation))
    rows = -(-len(families) // 3)
    with styled():
        figure = new_figure(9, 2.9 * rows)
        panels: list[Axes] = list(figure.subplots(rows, 3, sharey=True, squeeze=False).flat)
        for axes in panels[len(families) :]:
            axes.set_axis_off()
        for axes, family in zip(panels, families, strict=False):
            for stage, curve in errors[errors.perturbation == family].groupby("stage"):
                shared = stage in options.get("shared_weights", ())
                _draw_curve(axes, curve, stage_colour(stage), _stage_label(stage, indices, family, shared))
            finish_panel(axes, family, options["chance"])
            axes.legend(loc="best")
        what = "labels" if options.get("against", options.get("reference")) == "labels" else "own predictions"
        panels[0].set_ylabel(f"error against {what}")
    return figure


def _draw_curve(axes: Axes, curve: pd.DataFrame, colour: str, label: str) -> None:
    if curve["position"].duplicated().any():  # several blocks are left out at once
        axes.plot(curve["position"], curve["value"], "o", color=colour, label=label, markersize=3, alpha=0.5)
        return
    axes.plot(curve["position"], curve["value"], color=colour, label=label)
    axes.fill_between(curve["position"], curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)


def _stage_label(stage: Any, indices: pd.DataFrame, family: str, shared: bool) -> str:
    values = indices[indices["stage"] == stage].set_index("index")
    known = {RECURRENCE.name: " (shared weights)"} if shared else {}
    found = [
        f"{index.short} {values.value[name]:.2f}{known.get(name, '')}"
        if values.defined[name]
        else f"{index.short} undefined"
        for name, index in INDICES.items()
        if index.family == family and name in values.index
    ]
    return ": ".join([f"stage {stage + 1}", *([", ".join(found)] if found else [])])


_DASHES = {"Block Influence": "--", "angular distance": "-."}


def draw_plan(frontier: pd.DataFrame, mode: str, baselines: pd.DataFrame) -> Figure:
    """Draw the error against the number of blocks that are left, and which blocks each route has left.

    Args:
        frontier: The frontier of a plan, from the ordinary pass on.
        mode: Its option of that name.
        baselines: Its baselines; empty if there are none.

    Returns:
        The figure.
    """
    column, label = ("distinct", "different blocks") if mode == "share" else ("blocks", "blocks executed")
    with styled():
        figure = new_figure(9, 3.4)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
        left.fill_between(frontier[column], frontier["low"], frontier["high"], alpha=0.2, linewidth=0)
        left.plot(frontier[column], frontier["error"], "o-", markersize=3, label="on held-out batches")
        left.plot(frontier[column], frontier["search_error"], ":", color="#777777", label="on those of the search")
        for method, own in baselines.groupby("method") if len(baselines) else ():
            label_of = f"by {method}, held out"
            left.plot(own[column], own["error"], _DASHES[method], color="#999999", linewidth=1, label=label_of)
        left.set_xlabel(label)
        left.set_ylabel("error")
        if mode != "repeat":
            left.invert_xaxis()
        percent(left)
        left.legend()
        _draw_routes(right, frontier, column)
        right.set_ylabel(label)
        right.invert_yaxis()
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_routes(axes: Axes, frontier: pd.DataFrame, column: str) -> None:
    sizes = [len(path) for path in frontier["route"].iloc[0]]
    starts = list(accumulate((size + 1 for size in sizes), initial=0))  # a gap between each two stages
    for route, y in zip(frontier["route"], frontier[column], strict=True):
        for stage, path in enumerate(route):
            # Places of the stage, each with the block that is executed there.
            places = path if column == "blocks" else range(len(path))
            for place, block in zip(places, path, strict=True):
                x = starts[stage] + place
                axes.plot(x, y, "s", color=stage_colour(stage), markersize=5)
                often = path.count(block) if column == "blocks" else 1
                word = f"{often}x" if often > 1 else str(block + 1) if place != block else ""
                axes.annotate(word, (x, y), ha="center", va="center", fontsize=5, color="white")
    ticks = {start + block: str(block + 1) for start, size in zip(starts, sizes, strict=False) for block in range(size)}
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=6)
    axes.set_xlabel(
        "block (2x: executed twice)" if column == "blocks" else "place; numbers: the block that is executed there"
    )
