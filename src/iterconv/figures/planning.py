"""The frontier of a plan."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.style import STAGE_COLOURS, new_figure, paper_style, percent


def draw_plan(plan: Any) -> Figure:
    """Error against blocks left, and which blocks each route has left.

    Args:
        plan: From ``iterconv.plan``.

    Returns:
        The figure.
    """
    column = "blocks" if plan.options["saves"] == "blocks" else "distinct"
    frontier = plan.frontier
    with paper_style():
        figure = new_figure(9, 3.4)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
        left.fill_between(frontier[column], frontier["low"], frontier["high"], alpha=0.2, linewidth=0)
        left.plot(frontier[column], frontier["error"], "o-", markersize=3, label="on held-out batches")
        left.plot(frontier[column], frontier["search_error"], ":", color="#777777", label="on those of the search")
        left.set_xlabel("blocks executed" if column == "blocks" else "different blocks")
        left.set_ylabel("error")
        left.invert_xaxis()
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        percent(left)
        left.legend()
        starts, start = [], 0
        for stage in plan.model.stages:
            starts.append(start)
            start += len(stage.blocks) + 1
        for row in frontier.itertuples():
            for stage, path in enumerate(row.route):
                colour = STAGE_COLOURS[stage % len(STAGE_COLOURS)]
                # Places of the stage, each with the block that is executed there.
                places = path if column == "blocks" else range(len(path))
                for place, block in zip(places, path, strict=True):
                    right.plot(starts[stage] + place, getattr(row, column), "s", color=colour, markersize=5)
                    if place != block:
                        right.annotate(
                            str(block + 1),
                            (starts[stage] + place, getattr(row, column)),
                            ha="center",
                            va="center",
                            fontsize=5,
                            color="white",
                        )
        right.set_ylabel(left.get_xlabel())
        right.invert_yaxis()
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        ticks = [starts[s] + b for s, stage in enumerate(plan.model.stages) for b in range(len(stage.blocks))]
        names = [str(b + 1) for stage in plan.model.stages for b in range(len(stage.blocks))]
        right.set_xticks(ticks, names, fontsize=6)
        right.set_xlabel("block" if column == "blocks" else "place; numbers: the block that is executed there")
    return figure
