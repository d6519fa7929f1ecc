"""Error curves of the perturbations: one report, or the instances of one network (Fig. 2)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.style import INDEX_NAMES, STAGE_COLOURS, dots, new_figure, paper_style, percent, wide_enough

FAMILIES = {
    "early read-out": ("Convergence", "evaluated blocks"),
    "drop-out": ("Recurrence", "dropped block"),
    "extra evaluation": ("Divergence", "extra evaluations of the last block"),
}


_FURTHER = {
    "repetition": ("Repetition", "block evaluated twice"),
    "swap": ("Swap", "first of two swapped neighbours"),
    "reversal": ("Reversal", "last blocks in reverse order"),
    "shuffle": ("Shuffle", "number of the shuffle"),
    "pair drop-out": ("Drop-out of two", "first dropped block"),
    "run drop-out": ("Drop-out of runs", "first dropped block"),
}


def draw_report(curves: pd.DataFrame, indices: pd.DataFrame, options: dict[str, Any]) -> Figure:
    """One model: error along each family of perturbations, a line a stage, with intervals.

    Args:
        curves: The curves of a report of ``iterconv.measure``.
        indices: Its indices.
        options: Its options, of which ``chance`` and ``reference`` are shown.

    Returns:
        The figure.
    """
    with paper_style():
        errors = curves[curves.metric == "error"]
        families = list(dict.fromkeys(errors.perturbation))
        figure = new_figure(9, 2.9 * -(-len(families) // 3))
        panels: list[Axes] = list(figure.subplots(-(-len(families) // 3), 3, sharey=True, squeeze=False).flat)
        for axes in panels[len(families) :]:
            axes.set_axis_off()
        for axes, family in zip(panels, families, strict=False):
            for stage, curve in errors[errors.perturbation == family].groupby("stage"):
                colour = _stage_colour(stage)
                label = _stage_label(stage, indices, family)
                if curve["position"].duplicated().any():  # several blocks are left out at once
                    axes.plot(
                        curve["position"], curve["value"], "o", color=colour, label=label, markersize=3, alpha=0.5
                    )
                    continue
                axes.plot(curve["position"], curve["value"], color=colour, label=label)
                axes.fill_between(curve["position"], curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)
            _finish(axes, family, options["chance"])
            axes.legend(loc="best")
        what = "labels" if options["reference"] == "labels" else "own predictions"
        panels[0].set_ylabel(f"error against {what}")
    return figure


def _stage_label(stage: Any, indices: pd.DataFrame, family: str) -> str:
    if family not in FAMILIES:
        return f"stage {stage + 1}"
    name = FAMILIES[family][0].lower()
    row = indices[(indices["index"] == name) & (indices["stage"] == stage)].iloc[0]
    value = f"{row['value']:.2f}" if row["defined"] else "undefined"
    return f"stage {stage + 1}: {name[0].upper()}I {value}"


def draw_instances(curves: pd.DataFrame, indices: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Fig. 2: the instances of one network; curves, indices by stage, error against indices.

    Source: Lippl et al., Fig. 2. One instance, the first seed, is emphasised.

    Args:
        curves: ``studies.tables.curve_table`` of the instances.
        indices: ``index_table`` of the same.
        runs: ``run_table`` of the same.

    Returns:
        The figure.
    """
    with paper_style():
        figure = new_figure(10.5, 5.6)
        halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        above, below = halves
        _draw_families(above.subplots(1, 3, sharey=True), curves, float(runs["chance"].iloc[0]))
        panels = below.subplots(1, 5)
        for axes, (name, title) in zip(panels, INDEX_NAMES.items(), strict=False):
            draw_stages(axes, indices[indices["index"] == name])
            axes.set_title(title)
        for axes, name in zip(panels[3:], ("convergence", "divergence"), strict=True):
            axes.plot(runs[name], runs["test_error"], "o", color="#333333", alpha=0.7, markeredgewidth=0)
            axes.set_xlabel(INDEX_NAMES[name])
            axes.set_ylabel("test error")
            wide_enough(axes)
    return figure


def _draw_families(panels: Any, curves: pd.DataFrame, chance: float) -> None:
    errors = curves[curves.metric == "error"]
    first_seed = errors["seed"].min()
    for axes, family in zip(panels, FAMILIES, strict=True):
        for (stage, seed), curve in errors[errors.perturbation == family].groupby(["stage", "seed"]):
            emphasised = seed == first_seed
            axes.plot(
                curve["position"],
                curve["value"],
                "o-",
                color=_stage_colour(stage),
                alpha=1.0 if emphasised else 0.25,
                linewidth=1.6 if emphasised else 0.8,
                markersize=3 if emphasised else 0,
                label=f"stage {stage + 1}" if emphasised else None,
            )
        _finish(axes, family, chance)
    panels[0].set_ylabel("test error")
    panels[0].legend()


def draw_stages(axes: Axes, indices: pd.DataFrame) -> None:
    """Values of one index by stage and in the mean: every seed a dot, means large."""
    stages = [*sorted(stage for stage in indices["stage"].unique() if stage != "mean"), "mean"]
    for place, stage in enumerate(stages):
        values = indices[indices["stage"] == stage]["value"].astype(float)
        colour = "#333333" if stage == "mean" else _stage_colour(stage)
        dots(axes, place, values, colour)
        if values.notna().any():
            axes.plot(place, values.mean(), "o", color=colour, markersize=8)
        else:
            axes.text(place, 0.5, "undefined", rotation=90, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(stages)), [str(s + 1) if s != "mean" else "mean" for s in stages])
    axes.set_xlim(-0.5, len(stages) - 0.5)
    low, high = np.nanmin([0, axes.get_ylim()[0]]), np.nanmax([1.05, axes.get_ylim()[1]])
    axes.set_ylim(low, high)
    axes.set_xlabel("stage")


def _finish(axes: Axes, family: str, chance: float) -> None:
    title, label = FAMILIES.get(family) or _FURTHER[family]
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.axhline(chance, color="#999999", linestyle="--", linewidth=0.8)
    axes.set_ylim(0, 1)
    percent(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _stage_colour(stage: Any) -> str:
    return STAGE_COLOURS[int(stage) % len(STAGE_COLOURS)]
