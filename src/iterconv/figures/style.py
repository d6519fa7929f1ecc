"""Colours, sizes, names of conditions and files that all figures share."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from iterconv.files import write_atomically

STAGE_COLOURS = ("#1b6ca8", "#d1495b", "#edae49", "#66a182", "#8d6a9f")
WIDTH_COLOURS = {8: "#4c9fd4", 16: "#d1495b", 32: "#e3a72f", 64: "#5a9367"}
CONDITION_COLOURS = ("#444444", "#4c9fd4", "#5a9367", "#e3a72f", "#d1495b", "#8d6a9f")

_SETTINGS: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "iterconv",  # equal data, equal bytes
    "figure.dpi": 130,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw with our settings inside the block, and with the user's after it."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that no window system knows of.

    Args:
        width: The width in inches.
        height: The height in inches.

    Returns:
        The figure, with constrained layout.
    """
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, stem: Path) -> str:
    """Write a figure as PNG and SVG; return the SVG's text.

    Args:
        figure: The figure.
        stem: The path without suffix.

    Returns:
        The SVG element, without the XML declaration.
    """
    files: dict[str, bytes] = {}
    with paper_style():
        # Without the date and the version of matplotlib, equal data give equal files.
        for suffix, metadata in (("png", None), ("svg", dict.fromkeys(("Creator", "Date", "Format", "Type")))):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, metadata=metadata)
            files[suffix] = buffer.getvalue()
    for suffix, contents in files.items():
        write_atomically(stem.with_name(f"{stem.name}.{suffix}"), contents)
    text = files["svg"].decode()
    return text[text.index("<svg") :]


def write(figure: Figure, path: Path) -> None:
    """Write a figure to a file that appears whole or not at all.

    Args:
        figure: The figure.
        path: The file, in a folder that is there; its suffix names the format, and without one, .png is added.

    Raises:
        ValueError: If the suffix is not a picture format.
        OSError: If the file can't be written.
    """
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    path.parent.stat()  # raises if there is no such folder, which would else be made
    write_atomically(path, buffer.getvalue())


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
    axes.set_xticks(range(len(conditions)), [condition_label(*condition, "\n") for condition in conditions])
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
    left, right = axes.get_xlim()
    if right - left < x:
        axes.set_xlim((left + right - x) / 2, (left + right + x) / 2)
    low, high = axes.get_ylim()
    if low > high / 2:
        room = max(y - (high - low), 0.1 * (high - low)) / 2
        axes.set_ylim(low - room, high + room)
    else:
        axes.set_ylim(0, max(1.04 * high, 0.02))
    percent(axes)


def percent(axes: Axes, axis: str = "y") -> None:
    """Show an axis of error rates in percent."""
    (axes.yaxis if axis == "y" else axes.xaxis).set_major_formatter(PercentFormatter(1))


def counts(axes: Axes, axis: str) -> None:
    """Make an axis of counts logarithmic, labelled 1 k, 2 k, 5 k, 10 k, ..."""
    shown = axes.yaxis if axis == "y" else axes.xaxis
    (axes.set_yscale if axis == "y" else axes.set_xscale)("log")
    shown.set_major_locator(LogLocator(subs=(1, 2, 5)))
    shown.set_major_formatter(EngFormatter(sep=""))
    shown.set_minor_locator(NullLocator())
