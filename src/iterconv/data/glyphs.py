"""Digits as pixels: black faces with a white outline, scaled to given dimensions whatever the font."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterconv.errors import InputError, line_of, require

HEIGHT, ADVANCE, OUTLINE = 275, 214, 20
"""Pixels of a digit's height, advance width and outline: Arial Bold at 384 px (Spoerer et al., 2017)."""
BLANK, FACE, EDGE = 0, 1, 2
"""The three kinds of pixels of a glyph."""


@dataclass(frozen=True, eq=False)
class Glyph:
    """One digit, drawn."""

    pixels: NDArray[np.uint8]
    """(height, width) of BLANK, FACE and EDGE, without blank margins."""
    reach: tuple[float, float]
    """Vertical and horizontal distance from the digit's centre to the upper left corner of ``pixels``."""


@lru_cache(maxsize=4)
def digit_glyphs(font: str | None = None) -> tuple[Glyph, ...]:
    """Draw the digits 0 to 9 at full size.

    Source: Spoerer et al. (2017), bold Arial, 384 px. Choice: any bold font is scaled so that its flat digits
    (the height of the 1) are 275 px high and its advance is 214 px, so that the statistics of occlusion do not
    depend on the font; pixels are either in or out, the average to 32 x 32 smooths enough.

    Args:
        font: A TrueType or OpenType file; matplotlib's DejaVu Sans Bold by default.

    Returns:
        Ten glyphs.

    Raises:
        InputError: If matplotlib is missing, or the font can't be read or has no digits.
    """
    require("matplotlib", "drawing digits")
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font, LoadFlags
    from matplotlib.textpath import TextPath

    try:
        properties = FontProperties(fname=font or findfont(FontProperties(family="DejaVu Sans", weight="bold")))
        face = FT2Font(str(properties.get_file()))
        if not all(ord(str(digit)) in face.get_charmap() for digit in range(10)):
            raise InputError(f"font {font} has no digits; choose another one")
        outlines = [TextPath((0, 0), str(digit), size=1000, prop=properties) for digit in range(10)]
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as problem:
        raise InputError(f"can't read font {font} ({line_of(problem)}); pass a TrueType or OpenType file") from None
    # Without hinting, which would round the advance to whole pixels.
    face.set_size(1000, 72)
    advance = face.load_char(ord("0"), flags=LoadFlags.NO_HINTING).linearHoriAdvance / 65536
    scale = (ADVANCE / advance, HEIGHT / outlines[1].get_extents().height)
    return tuple(_draw(outline.vertices * scale, outline.codes) for outline in outlines)


def _draw(vertices: NDArray[Any], codes: NDArray[Any]) -> Glyph:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    extent = Path(vertices, codes).get_extents()
    centre = np.array([(extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2])
    side = 2 * int(np.ceil(max(extent.width, extent.height) / 2 + OUTLINE)) + 2
    # The background is red, which tells it from black faces and white outlines.
    figure = Figure(figsize=(side / 72, side / 72), dpi=72, facecolor="red")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xlim=(-side / 2, side / 2), ylim=(-side / 2, side / 2))
    axes.set_axis_off()
    path = Path(vertices - centre, codes)
    style: dict[str, Any] = {"facecolor": "black", "edgecolor": "white", "linewidth": OUTLINE, "joinstyle": "miter"}
    axes.add_patch(PathPatch(path, antialiased=False, **style))
    canvas.draw()
    red, green, _, _ = np.asarray(canvas.buffer_rgba()).transpose(2, 0, 1)
    pixels = np.where(green > 127, EDGE, np.where(red > 127, BLANK, FACE)).astype(np.uint8)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Glyph(np.ascontiguousarray(cut), (side / 2 - rows[0], side / 2 - columns[0]))
