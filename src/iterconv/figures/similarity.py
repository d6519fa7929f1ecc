"""Block-to-block similarity as maps."""

import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.style import new_figure, paper_style

_TITLES = {"weights": "weights", "updates": "updates on data"}


def draw_similarity(table: pd.DataFrame) -> Figure:
    """Two maps a stage: cosines between the blocks' weights, and between what they add on data.

    Args:
        table: From ``iterconv.similarity``.

    Returns:
        The figure.
    """
    stages = sorted(table["stage"].unique())
    with paper_style():
        figure = new_figure(2.6 * len(stages) + 0.8, 5)
        panels = figure.subplots(2, len(stages), squeeze=False)
        for row, (kind, title) in enumerate(_TITLES.items()):
            for column, stage in enumerate(stages):
                own = table[(table["stage"] == stage) & (table["kind"] == kind)]
                values = own.pivot(index="block", columns="other", values="value")
                axes = panels[row][column]
                image = axes.imshow(values.to_numpy(dtype=float), vmin=-1, vmax=1, cmap="RdBu_r")
                axes.set_xticks(range(len(values)), [str(block + 1) for block in values.index], fontsize=6)
                axes.set_yticks(range(len(values)), [str(block + 1) for block in values.index], fontsize=6)
                axes.set_title(f"stage {stage + 1}: {title}")
        figure.colorbar(image, ax=panels, label="cosine", shrink=0.7)
    return figure
