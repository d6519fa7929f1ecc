"""Error curves of the perturbations: the instances of one network (Fig. 2)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.style import (
    dots,
    new_figure,
    percent,
    same_scale,
    stage_colour,
    styled,
    unit_scale,
    wide_enough,
)
from iterconv.indices import INDICES, families
from iterconv.paths.families import family_of


def draw_instances(curves: pd.DataFrame, indices: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Fig. 2: the instances of one network; curves, indices by stage, error against indices.

    Source: Lippl et al., Fig. 2. One instance, the first seed, is emphasised.

    Args:
        curves: ``Tables.curves`` of the instances.
        indices: ``Tables.indices`` of the same.
        runs: ``Tables.runs`` of the same.

    Returns:
        The figure.
    """
    with styled():
        columns = len(INDICES) + 2
        figure = new_figure(2.1 * columns, 5.6)
        halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        above, below = halves
        _draw_families(above, curves, float(runs["chance"].iloc[0]))
        panels = list(below.subplots(1, columns))
        for axes, index in zip(panels, INDICES.values(), strict=False):
            draw_stages(axes, indices[indices["index"] == index.name])
            axes.set_title(index.title.replace(" ", "\n"))
        unit_scale(panels[: len(INDICES)])
        errors = panels[len(INDICES) :]
        for axes, name in zip(errors, ("convergence", "divergence"), strict=True):
            axes.plot(runs[name], runs["test_error"], "o", color="#333333", alpha=0.7, markeredgewidth=0)
            axes.set_title(f"Error against\n{name}")
            axes.set_xlabel(INDICES[name].short)
            axes.xaxis.set_major_locator(MaxNLocator(2))
            wide_enough(axes)
        same_scale(errors)
    return figure


def families_in(curves: pd.DataFrame) -> list[str]:
    """List the families that indices read and that were measured; older tables may lack some."""
    return [family for family in families() if (curves["perturbation"] == family).any()]


def _draw_families(figure: Any, curves: pd.DataFrame, chance: float) -> None:
    errors = curves[curves.metric == "error"]
    first_seed = errors["seed"].min()
    shown = families_in(errors)
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, family in zip(panels, shown, strict=True):
        for (stage, seed), curve in errors[errors.perturbation == family].groupby(["stage", "seed"]):
            emphasised = seed == first_seed
            axes.plot(
                curve["position"],
                curve["value"],
                "o-",
                color=stage_colour(stage),
                alpha=1.0 if emphasised else 0.25,
                linewidth=1.6 if emphasised else 0.8,
                markersize=3 if emphasised else 0,
                label=f"stage {stage + 1}" if emphasised else None,
            )
        finish_panel(axes, family, chance)
    panels[0].set_ylabel("test error")
    panels[0].legend()


def draw_stages(axes: Axes, indices: pd.DataFrame) -> None:
    """Draw the values of one index by stage and, if there are several, in their mean: every seed a dot, means bars."""
    stages = sorted(stage for stage in indices["stage"].unique() if stage != "mean")
    stages += ["mean"] if len(stages) > 1 else []
    for place, stage in enumerate(stages):
        values = indices[indices["stage"] == stage]["value"].astype(float)
        colour = "#333333" if stage == "mean" else stage_colour(stage)
        dots(axes, place, values, colour)
        if values.notna().any():
            axes.plot(place, values.mean(), "_", color=colour, markersize=14, markeredgewidth=2)
        else:
            axes.text(place, 0.5, "undefined", rotation=90, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(stages)), [str(s + 1) if s != "mean" else "mean" for s in stages], fontsize="small")
    axes.set_xlim(-0.5, max(len(stages), 1) - 0.5)  # tables from before an index have none of its values
    # At least from 0 to 1, so that panels can be compared; undefined values have no limits.
    low, high = np.nanmin([0, axes.get_ylim()[0]]), np.nanmax([1.05, axes.get_ylim()[1]])
    axes.set_ylim(low, high)
    axes.set_xlabel("stage")


def finish_panel(axes: Axes, family: str, chance: float) -> None:
    """Name a panel of error curves after its family, and draw the error of guessing."""
    axes.set_title(family_of(family).title)
    axes.set_xlabel(family_of(family).axis)
    axes.axhline(chance, color="#999999", linestyle="--", linewidth=0.8)
    axes.set_ylim(0, 1)
    percent(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
