"""The matrix of verdicts: parts of claims against settings."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from iterconv.figures.style import new_figure, styled

VERDICTS = {
    "supported": ("#0072b2", "white", "✓"),
    "contradicted": ("#e69f00", "black", "✗"),
    "undecided": ("#e4e4e4", "black", "?"),
}
"""Colour, colour of the text and sign of each verdict. Source: Okabe and Ito, Color Universal Design, 2008, for colours
that all can tell apart; the sign says the same without them."""

_ROW, _COLUMN = 0.2, 1.15  # inches


def draw_claims(table: pd.DataFrame) -> Figure:
    """Draw which claims hold where: a row for each part of a claim, a column for each setting.

    Args:
        table: The findings, as ``iterconv.claims.telling.verdict_table`` makes them.

    Returns:
        The figure. Each cell has the sign of its verdict, its n, and, where that is known of an undecided one, the
        number of seeds that would decide it; a blank cell has no runs.
    """
    parts = list(dict.fromkeys(table["part"]))
    settings = list(dict.fromkeys(table["setting"]))
    titles = table.drop_duplicates("part").set_index("part")["part_statement"]
    with styled():
        figure = new_figure(4.2 + _COLUMN * len(settings), 1.3 + _ROW * len(parts))
        axes = figure.subplots()
        for (part, setting), own in table.groupby(["part", "setting"], sort=False):
            _cell(axes, settings.index(setting), parts.index(part), own)
        axes.set_xlim(0, len(settings))
        axes.set_ylim(len(parts), 0)
        axes.set_xticks([number + 0.5 for number in range(len(settings))], [_in_lines(name) for name in settings])
        axes.set_yticks([number + 0.5 for number in range(len(parts))], [f"{part}  {titles[part]}" for part in parts])
        axes.tick_params(length=0, labelsize=8, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        claims = table.drop_duplicates("part")["claim"].tolist()
        for number in (number for number in range(1, len(claims)) if claims[number] != claims[number - 1]):
            axes.axhline(number, color="#888888", linewidth=0.6)
        handles = [Patch(color=colour, label=f"{sign} {verdict}") for verdict, (colour, _, sign) in VERDICTS.items()]
        note = "number: n; n → m: undecided with n seeds, about m would decide; blank: no runs"
        figure.legend(handles=handles, loc="outside lower center", ncols=3, title=note, title_fontsize=8)
    return figure


def _cell(axes: Axes, column: int, row: int, own: pd.DataFrame) -> None:
    first = own.iloc[0]
    colour, text, sign = VERDICTS[first["cell_verdict"]]
    axes.add_patch(Rectangle((column + 0.02, row + 0.05), 0.96, 0.9, color=colour, linewidth=0))
    shown = own[own["verdict"] == first["cell_verdict"]]
    least = shown.loc[shown["n"].idxmin()]
    label = f"{sign}  {least['n'] or least['reason']}"
    needed = first["cell_seeds_needed"]
    if not math.isnan(needed):
        label += f" → {needed:.0f}" if math.isfinite(needed) else " → >1000"
    axes.text(column + 0.5, row + 0.53, label, ha="center", va="center", color=text, fontsize=8)


def _in_lines(setting: str) -> str:
    return setting.replace(" (", "\n(").replace(", ", "\n")
