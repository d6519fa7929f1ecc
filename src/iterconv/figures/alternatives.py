"""Other measures of the perturbations: own predictions, cross-entropy, distance (Fig. 6)."""

from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterconv.figures.curves import draw_stages, families_in
from iterconv.figures.style import new_figure, same_scale, stage_colour, styled
from iterconv.indices import INDICES
from iterconv.paths.families import family_of

_SHOWN = {"cross_entropy": "cross-entropy\n(nats)", "distance": "distance to the\nfinal representation"}


def draw_alternatives(curves: pd.DataFrame, against_predictions: pd.DataFrame) -> Figure:
    """Fig. 6: indices against the nets' own predictions; cross-entropy and distance of every perturbation.

    Source: Lippl et al., App. B, Fig. 6.

    Args:
        curves: ``Tables.curves`` of the instances of one network.
        against_predictions: ``studies.tables.prediction_indices`` of the same instances.

    Returns:
        The figure.
    """
    with styled():
        shown = families_in(curves)
        figure = new_figure(2.1 + 2.8 * len(shown), 5.6)
        panels = figure.subplots(2, 1 + len(shown), width_ratios=(1, *[1.4] * len(shown)))
        for row, (metric, label) in enumerate(_SHOWN.items()):
            for axes, family in zip(panels[row][1:], shown, strict=True):
                _lines(axes, curves[(curves["metric"] == metric) & (curves["perturbation"] == family)])
                if family == "extra evaluation":
                    axes.set_yscale("log")  # representations may grow exponentially
                else:
                    axes.set_ylim(bottom=0)
                axes.set_xlabel(fill(family_of(family).axis, 20))
            panels[row][1].set_ylabel(label)
            same_scale([axes for axes in panels[row][1:] if axes.get_yscale() == "linear"])
        panels[0][1].legend()
        for axes, name in zip((panels[0][0], panels[1][0]), ("convergence", "divergence"), strict=True):
            draw_stages(axes, against_predictions[against_predictions["index"] == name])
            axes.set_title(f"{INDICES[name].title},\nown predictions")
    return figure


def _lines(axes: Axes, curves: pd.DataFrame) -> None:
    for (stage, seed), curve in curves.groupby(["stage", "seed"]):
        first = seed == curves["seed"].min()
        colour = stage_colour(stage)
        label = f"stage {stage + 1}" if first else None
        axes.plot(curve["position"], curve["value"], color=colour, alpha=1 if first else 0.3, linewidth=1, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
