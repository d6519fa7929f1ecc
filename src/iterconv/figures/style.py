"""Colours, sizes, names of conditions and files that all figures share."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from iterconv.files import write_atomically
from iterconv.options import FigureStyle

STAGE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
WIDTH_COLOURS = {8: "#56b4e9", 16: "#d55e00", 32: "#009e73", 64: "#4d4d4d"}
CONDITION_COLOURS = ("#4d4d4d", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7")
"""Colours that all can tell apart. Source: Okabe and Ito, Color Universal Design, 2008; the grey is ours."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """What figures are for: their size and that of their text."""

    name: str
    width: float | None = None
    """The width in inches of a wide figure; None for the width that it was designed with."""
    height: float | None = None
    """The height in inches; None for one that follows from the width."""
    font: float = 9
    """The size of most text in points; no text is smaller than 0.69 of it."""
    dpi: float = 130
    """The resolution of figures that are made of pixels."""


STYLES = {
    style.name: style
    for style in (
        Style(name="screen"),
        Style(name="paper", width=7, font=8, dpi=300),
        Style(name="slides", width=6.3, height=3.54, font=7.5, dpi=305),
    )
}
"""The styles by name. Choice: ``paper`` is as wide as the text of most journals, with 8 points at that size; ``slides``
has the proportions and the width of beamer's wide slides, 16 x 9 cm, on which 7.5 points are as large as 16 are on a
slide of 13.3 inches."""

_GROWTH = 1.1
"""The factor by which figures of a paper are higher than designed, since their text is larger in proportion."""
_SETTINGS: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=STAGE_COLOURS),
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": "small",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "iterconv",  # equal data, equal bytes
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
}
_style: ContextVar[Style] = ContextVar("style", default=STYLES["screen"])


@contextmanager
def in_style(name: FigureStyle) -> Iterator[None]:
    """Draw in a style inside the block, and in the former one after it.

    Args:
        name: One of ``STYLES``.
    """
    token = _style.set(STYLES[name])
    try:
        yield
    finally:
        _style.reset(token)


@contextmanager
def styled() -> Iterator[None]:
    """Draw with our settings, of the style that is in force, inside the block, and with the user's after it."""
    style = _style.get()
    with matplotlib.rc_context({**_SETTINGS, "font.size": style.font, "figure.dpi": style.dpi}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that no window system knows of.

    Args:
        width: The width in inches with which it is designed.
        height: The height in inches with which it is designed.

    Returns:
        The figure, with constrained layout, of a size that fits the style in force.
    """
    style = _style.get()
    if style.width is None:
        return Figure(figsize=(width, height), layout="constrained")
    shrunk = min(style.width / width, 0.8)
    size = (shrunk * width, shrunk * height * _GROWTH) if style.height is None else (style.width, style.height)
    return Figure(figsize=size, layout="constrained")


def save(figure: Figure, stem: Path) -> str:
    """Write a figure as PNG and SVG; return the SVG's text.

    Args:
        figure: The figure.
        stem: The path without suffix.

    Returns:
        The SVG element, without the XML declaration.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        write(figure, stem.with_name(f"{stem.name}.{suffix}"))
    text = stem.with_name(f"{stem.name}.svg").read_text()
    return text[text.index("<svg") :]


def write(figure: Figure, path: Path, title: str = "", text: str = "") -> None:
    """Write a figure to a file that appears whole or not at all; equal figures make equal files.

    Args:
        figure: The figure.
        path: The file, in a folder that is there; its suffix names the format, and without one, .png is added.
        title: The title that the file holds, where its format has a place for it.
        text: The text about the figure that it holds.

    Raises:
        ValueError: If the suffix is not a picture format.
        OSError: If the file can't be written.
    """
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=path.suffix[1:], metadata=_metadata(path.suffix[1:], title, text))
    path.parent.stat()  # raises if there is no such folder, which would else be made
    write_atomically(path, buffer.getvalue())


def _metadata(suffix: str, title: str, text: str) -> dict[str, str | None]:
    """Name what a file tells of itself as its format does, without the date and the version of matplotlib."""
    unsaid = dict.fromkeys({"pdf": ("CreationDate",), "svg": ("Creator", "Date", "Format", "Type")}.get(suffix, ()))
    place = {"pdf": "Subject", "svg": "Description", "png": "Description"}.get(suffix)
    said = {"Title": title, place: text} if place else {}
    return unsaid | {name: words for name, words in said.items() if words}


def condition_label(init: str, coupling: float, separator: str = " ") -> str:
    """Name a condition by its coupling strength, and for 0 by how the net started."""
    if coupling > 0:
        return f"{coupling:g}"
    return f"0{separator}rec." if init == "recurrent" else f"0{separator}non-rec."


def condition_colour(number: int) -> str:
    """Return the colour of the condition, or variant, of a number from 0."""
    return CONDITION_COLOURS[number % len(CONDITION_COLOURS)]


def label_conditions(axes: Axes, conditions: Sequence[tuple[str, float]]) -> None:
    """Make the x axis one of conditions, with a tick for each."""
    labels = [condition_label(*condition, "\n") for condition in conditions]
    axes.set_xticks(range(len(conditions)), labels, fontsize="small")
    axes.set_xlabel("coupling strength")


def conditions_of(runs: pd.DataFrame) -> list[tuple[str, float]]:
    """List the conditions in a table, ordinary ones first, then by coupling strength."""
    pairs = {(str(init), float(coupling)) for init, coupling in zip(runs["init"], runs["coupling"], strict=True)}
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def variant_label(norm_scale: float, kernel: str, first_coupled: int) -> str:
    """Name a variant of coupling and initialisation by its differences from the standard."""
    parts = [kernel] if kernel != "uniform" else []
    parts += [f"late, from block {first_coupled + 1}"] if first_coupled else []
    parts += [f"norm scale {norm_scale:g}"] if norm_scale != 1 else []
    return ", ".join(parts) or "standard"


def stage_colour(stage: object) -> str:
    """Return the colour that a stage, numbered from 0, has in every figure."""
    return STAGE_COLOURS[int(str(stage)) % len(STAGE_COLOURS)]


def width_colour(width: object) -> str:
    """Return the colour that a width has in every figure."""
    return WIDTH_COLOURS.get(int(str(width)), "#777777")


def dots(axes: Axes, x: float, values: Sequence[float] | pd.Series, colour: str) -> None:
    """Draw every seed as a translucent dot, side by side."""
    shown = np.asarray(values, dtype=float)
    # Side by side, so that equal values do not hide each other.
    offsets: NDArray[Any] = np.linspace(-0.08, 0.08, len(shown)) if len(shown) > 1 else np.zeros(len(shown))
    axes.plot(x + offsets, shown, "o", color=colour, markersize=4, alpha=0.45, markeredgewidth=0)


def wide_enough(axes: Axes, x: float = 0.1, y: float = 0.08) -> None:
    """Show errors in percent, from 0 on unless all are far from it, and no tiny range as if it were a large one.

    Args:
        axes: The axes, with error rates on the y axis.
        x: The least range of the x axis.
        y: The least range of the y axis if it does not begin at 0.
    """
    axes.margins(x=0.08)
    left, right = axes.get_xlim()
    if right - left < x:
        axes.set_xlim((left + right - x) / 2, (left + right + x) / 2)
    low, high = axes.get_ylim()
    if low > high / 2:
        room = max(y - (high - low), 0.1 * (high - low)) / 2
        axes.set_ylim(max(low - room, 0), high + room)
    else:
        axes.set_ylim(0, max(1.06 * high, 0.02))
    percent(axes)


def unit_scale(panels: Sequence[Axes]) -> None:
    """Give the y axes of panels of indices the same limits, at least from 0 to 1."""
    same_scale(panels)
    low, high = panels[0].get_ylim()
    for axes in panels:
        axes.set_ylim(min(low, -0.04), max(high, 1.08))


def same_scale(panels: Sequence[Axes]) -> None:
    """Give the y axes of panels the same limits, so that they can be compared."""
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def percent(axes: Axes, axis: str = "y") -> None:
    """Show an axis of error rates in percent."""
    (axes.yaxis if axis == "y" else axes.xaxis).set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:.4g}%")
    )


def counts(axes: Axes, axis: str) -> None:
    """Make an axis of counts logarithmic, labelled 1 k, 2 k, 5 k, 10 k, ..."""
    shown = axes.yaxis if axis == "y" else axes.xaxis
    (axes.set_yscale if axis == "y" else axes.set_xscale)("log")
    shown.set_major_locator(LogLocator(subs=(1, 2, 5)))
    shown.set_major_formatter(EngFormatter(sep=""))
    shown.set_minor_locator(NullLocator())
