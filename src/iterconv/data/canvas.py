"""A canvas of bits: what lies in front of what, and how much of each image pixel it fills.

A set of pixels is an array of bytes (columns / 8, rows), in which 8 neighbours of a row are the bits of one byte. So one
operation on whole bytes covers 8 pixels, and a cell of 8 x 8 pixels is counted by one instruction.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from iterconv.data.glyphs import BLANK, EDGE, digit_glyphs

CANVAS, SIZE = 512, 32
BLOCK = CANVAS // SIZE
"""Canvas pixels that are averaged to one image pixel, in each direction."""
GREY, WHITE = 119, 255
"""Levels of the background and the outlines; faces are black, 0."""

Bits = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Packed:
    """A digit as bits, whose first pixel column is one of the 8 of its first byte."""

    filled: Bits
    """Face and outline."""
    edge: Bits
    """The outline alone."""
    area: int
    """The number of pixels that are filled."""


@lru_cache(maxsize=320)
def pack(font: str | None, digit: int, shift: int) -> Packed:
    """Pack a digit into bits.

    Args:
        font: The font's file, as for ``digit_glyphs``.
        digit: The digit.
        shift: The number of empty pixel columns in front, 0 to 7.

    Returns:
        The digit's bits.
    """
    pixels = np.pad(digit_glyphs(font)[digit].pixels, ((0, 0), (shift, 0)))
    filled, edge = (np.ascontiguousarray(np.packbits(part, axis=1).T) for part in (pixels != BLANK, pixels == EDGE))
    return Packed(filled, edge, int(np.count_nonzero(pixels != BLANK)))


class Canvas:
    """A grey canvas on which digits are put one *behind* the other.

    Args:
        font: The font's file, as for ``digit_glyphs``.
    """

    def __init__(self, font: str | None) -> None:
        self._font = font
        self._planes = np.empty((2, CANVAS // 8, CANVAS), dtype=np.uint8)
        self._edges, self._free = self._planes
        self._own = np.zeros((CANVAS // 8, CANVAS), dtype=np.uint8)
        self.clear()

    def clear(self) -> None:
        """Make the canvas blank."""
        self._edges.fill(0)
        self._free.fill(255)

    def put(self, digit: int, top: int, left: int) -> tuple[float, tuple[Bits, slice, slice]]:
        """Put a digit behind all that is there.

        Args:
            digit: The digit.
            top: The first row of its upper left corner.
            left: The column of its upper left corner.

        Returns:
            The share of it that is visible, in [0, 1], and its visible pixels with their place.
        """
        first, shift = divmod(left, 8)
        packed = pack(self._font, digit, shift)
        place = slice(first, first + packed.filled.shape[0]), slice(top, top + packed.filled.shape[1])
        own = self._put(packed.filled, packed.edge, *place)
        return int(np.bitwise_count(own).sum(dtype=np.uint32)) / packed.area, (own, *place)

    def put_square(self, digit: int, row: int, column: int, side: int, top: int, left: int) -> None:
        """Put a square that is cut from a digit behind all that is there.

        Args:
            digit: The digit.
            row: The first row of the square within the digit.
            column: The first column of the square within the digit.
            side: The side of the square in pixels.
            top: The first row on the canvas.
            left: The first column on the canvas.
        """
        start, shift = divmod(left - column, 8)  # of the whole digit, which may begin outside of the canvas
        packed = pack(self._font, digit, shift)
        columns = slice(left // 8, (left + side + 7) // 8)
        part = slice(columns.start - start, columns.stop - start), slice(row, row + side)
        filled = packed.filled[part].copy()
        filled[0] &= 255 >> left % 8
        filled[-1] &= 255 << -(left + side) % 8 & 255
        self._put(filled, packed.edge[part], columns, slice(top, top + side))

    def _put(self, filled: Bits, edge: Bits, columns: slice, rows: slice) -> Bits:
        free = self._free[columns, rows]
        own = filled & free
        free ^= own
        self._edges[columns, rows] |= own & edge
        return own

    def image(self) -> NDArray[np.uint8]:
        """Average the canvas to the image's size, rounded half up."""
        edges, free = _count(self._planes)
        return _round(edges * np.uint32(WHITE) + free * np.uint32(GREY))

    def mask(self, own: Bits, columns: slice, rows: slice) -> NDArray[np.uint8]:
        """Tell how much of each image pixel some pixels fill, as 0..255, rounded half up."""
        self._own.fill(0)
        self._own[columns, rows] = own
        return _round(_count(self._own) * np.uint32(255))


def _count(planes: Bits) -> NDArray[np.uint16]:
    """Count the pixels of sets in each block of 16 x 16, (..., columns, rows)."""
    # Eight rows of a byte column, which are contiguous, are one word.
    cells = np.bitwise_count(planes.view(np.uint64))
    pairs = cells[..., 0::2, :] + cells[..., 1::2, :]
    return pairs[..., 0::2].astype(np.uint16) + pairs[..., 1::2]


def _round(sums: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Divide sums over blocks by their number of pixels, rounded half up; returns (rows, columns)."""
    return ((sums + BLOCK * BLOCK // 2) // (BLOCK * BLOCK)).astype(np.uint8).T
