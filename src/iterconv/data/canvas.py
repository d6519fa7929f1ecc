"""A canvas of bits: what lies in front of what, and how much of each image pixel it fills.

A set of pixels is an array of bytes (columns / 8, rows), in which 8 neighbours of a row are the bits of one byte. One
operation on whole bytes covers 8 pixels, and a cell of 8 x 8 pixels is counted by one instruction.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from iterconv.data.glyphs import BLANK, EDGE, digit_glyphs

CANVAS, SIZE = 512, 32
BLOCK = CANVAS // SIZE
"""Canvas pixels that are averaged to one image pixel, in each direction."""
GREY, WHITE = 119, 255
"""Levels of the background and the outlines; faces are black, 0."""
CELLS = CANVAS // 8

Bits = NDArray[np.uint8]
Cells = NDArray[np.uint8]
"""Numbers of pixels in cells of 8 x 8, at most 64, (..., columns, rows)."""


@lru_cache(maxsize=320)
def pack(font: str | None, digit: int, shift: int) -> Bits:
    """Pack a digit into bits.

    Args:
        font: The font's file, as for ``digit_glyphs``.
        digit: The digit.
        shift: The number of empty pixel columns in front, 0 to 7.

    Returns:
        Two sets of pixels: face and outline, and the outline alone.
    """
    pixels = np.pad(digit_glyphs(font)[digit].pixels, ((0, 0), (shift, 0)))
    planes = np.stack([pixels != BLANK, pixels == EDGE])
    return np.ascontiguousarray(np.packbits(planes, axis=2).swapaxes(1, 2))


class Canvas:
    """A grey canvas on which digits are put one *behind* the other.

    Args:
        font: The font's file, as for ``digit_glyphs``.
    """

    def __init__(self, font: str | None) -> None:
        self._font = font
        # Two sets of pixels: the background, which is still free, and the outlines.
        self._planes = np.empty((2, CELLS, CANVAS), dtype=np.uint8)
        # Eight rows of a byte column are contiguous, so that they are one word.
        self._words = self._planes.view(np.uint64)
        self.clear()

    def clear(self) -> None:
        """Make the canvas blank."""
        self._planes[0] = 255
        self._planes[1] = 0

    def put(self, digit: int, top: int, left: int) -> None:
        """Put a digit behind all that is there.

        Args:
            digit: The digit.
            top: The row of its upper left corner.
            left: The column of its upper left corner.
        """
        column, shift = divmod(left, 8)
        bits = pack(self._font, digit, shift)
        self._fill(bits, self._planes[:, column : column + bits.shape[1], top : top + bits.shape[2]])

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
        first, last = left // 8, (left + side + 7) // 8
        bits = pack(self._font, digit, shift)[:, first - start : last - start, row : row + side].copy()
        bits[:, 0] &= 255 >> left % 8
        bits[:, -1] &= 255 << -(left + side) % 8 & 255
        self._fill(bits, self._planes[:, first:last, top : top + side])

    @staticmethod
    def _fill(bits: Bits, place: Bits) -> None:
        # What is visible is no longer free. There are no outlines yet where it is free, so they are exchanged, too.
        place ^= bits & place[0]

    def count_background(self, cells: Cells) -> None:
        """Count the pixels of the background in each cell.

        Args:
            cells: The place of the counts, (64, 64).
        """
        np.bitwise_count(self._words[0], out=cells)

    def count_outlines(self, cells: Cells) -> None:
        """Count the pixels of outlines in each cell.

        Args:
            cells: The place of the counts, (64, 64).
        """
        np.bitwise_count(self._words[1], out=cells)


def to_blocks(cells: Cells) -> NDArray[np.uint16]:
    """Add up the cells of each block of 16 x 16 pixels.

    Args:
        cells: Counts, (..., 64, 64).

    Returns:
        Counts of at most 256, (..., 32, 32) in rows and columns.
    """
    blocks = (cells[..., 0::2, :] + cells[..., 1::2, :]).view(np.uint16)  # two cells, which are added up
    upper = blocks >> np.uint16(8)
    blocks &= np.uint16(255)
    blocks += upper
    return blocks.swapaxes(-1, -2)


def average(sums: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Divide sums of grey levels over blocks by their number of pixels, rounded half up."""
    # No sum exceeds 256 * 255, which leaves room for the half.
    return ((sums + np.uint16(BLOCK * BLOCK // 2)) // np.uint16(BLOCK * BLOCK)).astype(np.uint8)
