"""Digitclutter and Digitdebris: digits that occlude each other, made from a seed.

Source: Spoerer, McClure & Kriegeskorte (2017), as Lippl et al., Sec. 5 and A.4 use it.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from iterconv.data.canvas import BLOCK, CANVAS, CELLS, GREY, SIZE, WHITE, Canvas, average, to_blocks
from iterconv.data.glyphs import Glyph, digit_glyphs
from iterconv.data.workers import Parent
from iterconv.errors import check_choice, check_count, check_memory, check_range
from iterconv.options import Debris

REACH = (0.19, 0.29)
"""Largest vertical and horizontal distance of a digit's centre from the canvas's, in canvases."""
DEBRIS = {"light": 10, "heavy": 50}
CROP = (6, 9)
"""Narrowest and widest crop of debris, in image pixels."""
CHUNK = 500

Part = tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.uint8]]
"""Images, visible shares and masks of some images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Digitclutter:
    """Images of several digits, and the truth about them."""

    images: NDArray[np.uint8]
    """(n, 32, 32) grey levels."""
    targets: NDArray[np.uint8]
    """(n, 10): 1 where the digit is in the image."""
    digits: NDArray[np.uint8]
    """(n, digits): which digits, in the order in which they were drawn; later ones are in front."""
    centres: NDArray[np.float64]
    """(n, digits, 2): vertical and horizontal offset of each digit's centre from the middle, in canvases."""
    visible: NDArray[np.float64]
    """(n, digits): the share of each digit, face and outline, that nothing occludes, in [0, 1]."""
    masks: NDArray[np.uint8] | None
    """(n, digits, 32, 32): how much of each pixel shows the digit, 0..255; None if not asked for."""


def generate(
    n: int,
    digits: int = 5,
    *,
    seed: int = 0,
    debris: Debris | None = None,
    font: str | None = None,
    masks: bool = True,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Digitclutter:
    """Make images of occluding digits.

    Distinct digits are drawn one after another on a grey canvas of 512 x 512 pixels, each with a black face
    and a white outline, its centre uniform within reach, so that every digit lies whole inside; the canvas is
    then averaged to 32 x 32. Debris are square crops of full-size digits, pasted over them.

    Source: Spoerer et al. (2017); dimensions as in ``glyphs``. Choice: a digit's centre is that of its bounding
    box; crops lie wholly inside a digit's bounding box and the canvas, 6 to 9 image pixels wide.

    Args:
        n: The number of images; the first k of n are those of ``generate(k, ...)``.
        digits: The number of digits in each image, 1 to 10.
        seed: Equal seeds give equal bytes, for any number of workers.
        debris: ``"light"`` (10 crops an image), ``"heavy"`` (50) or None.
        font: A bold font's file; matplotlib's DejaVu Sans Bold by default.
        masks: True to make occlusion masks too.
        workers: The number of processes.
        progress: Receives the number of images made so far.

    Returns:
        The images and the truth about them.

    Raises:
        InputError: If an option is out of range or the font can't be used.
    """
    n, seed = check_count("n", n, why="makes no image"), check_count("seed", seed, 0)
    workers = check_count("workers", workers)
    digits = int(check_range("digits", check_count("digits", digits), "[1, 10]", "an image holds up to 10 digits"))
    if debris is not None:
        check_choice("debris", debris, Debris)
    crops = DEBRIS[debris] if debris else 0
    check_memory(n * (SIZE**2 * (1 + digits * masks) + 8 * (10 + 2 * digits + 6 * crops)), f"n={n} images", "use fewer")
    digit_glyphs(font)  # a font that can't be read is told here, not by a worker
    # All random numbers are drawn here, so that images do not depend on the number of processes.
    draws = _draw_parameters(n, digits, crops, seed)
    chunks = [draws[start : start + CHUNK] for start in range(0, n, CHUNK)]
    parts = []
    with closing(_map(partial(_render, digits=digits, font=font, masks=masks), chunks, workers)) as made:
        for part in made:
            parts.append(part)
            if progress:
                progress(sum(len(images) for images, *_ in parts))
    images, visible, drawn = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order, centres = _order(draws, digits), _centres(draws, digits)
    targets = np.zeros((n, 10), dtype=np.uint8)
    np.put_along_axis(targets, order.astype(np.int64), 1, axis=1)
    return Digitclutter(
        images=images,
        targets=targets,
        digits=order,
        centres=centres,
        visible=visible,
        masks=drawn if masks else None,
    )


def _map(render: Callable[..., Part], chunks: list[NDArray[np.float64]], workers: int) -> Generator[Part, None, None]:
    """Render the chunks in order, in so many processes; no chunk is begun any more once this is closed."""
    if workers == 1:
        yield from map(render, chunks)
        return
    # Spawned, since a fork of a process that has used torch's threads may hang.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=Parent)
    try:
        yield from pool.map(render, chunks)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_parameters(n: int, digits: int, crops: int, seed: int) -> NDArray[np.float64]:
    """Draw every random number, one row for each image: 10 for the order, 2 for each digit, 6 for each crop."""
    return np.random.default_rng(seed).random((n, 10 + 2 * digits + 6 * crops))


def _order(draws: NDArray[np.float64], digits: int) -> NDArray[np.uint8]:
    return draws[:, :10].argsort(1)[:, :digits].astype(np.uint8)


def _centres(draws: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    return (draws[:, 10 : 10 + 2 * digits].reshape(len(draws), digits, 2) * 2 - 1) * REACH


def _render(draws: NDArray[np.float64], digits: int, font: str | None, masks: bool) -> Part:
    """Draw the images, visible shares and masks of one chunk, from the front to the back."""
    glyphs = digit_glyphs(font)
    order, crops = _order(draws, digits), draws[:, 10 + 2 * digits :].reshape(len(draws), -1, 6)
    corners = _corners(glyphs, order, _centres(draws, digits))
    # What is left of the background before each digit, and the last of all.
    free = np.empty((digits + 1, len(draws), CELLS, CELLS), dtype=np.uint8)
    outlines = np.empty((len(draws), CELLS, CELLS), dtype=np.uint8)
    canvas = Canvas(font)
    for row, (own_digits, own_corners) in enumerate(zip(order.tolist(), corners.tolist(), strict=True)):
        canvas.clear()
        for crop in crops[row, ::-1]:
            canvas.put_square(*_cut(glyphs, crop))
        canvas.count_background(free[digits, row])
        for layer in reversed(range(digits)):
            canvas.put(own_digits[layer], *own_corners[layer])
            canvas.count_background(free[layer, row])
        canvas.count_outlines(outlines[row])
    blocks = to_blocks(free)
    images = average(to_blocks(outlines) * np.uint16(WHITE) + blocks[0] * np.uint16(GREY))
    shown = (blocks[1:] - blocks[:-1]).swapaxes(0, 1)  # what each digit takes of the background is what shows of it
    areas = np.array([np.count_nonzero(glyph.pixels) for glyph in glyphs])
    visible = shown.sum((2, 3), dtype=np.int64) / areas[order]
    return images, visible, average(shown * np.uint16(255)) if masks else np.empty((len(draws), 0), dtype=np.uint8)


def _corners(glyphs: tuple[Glyph, ...], order: NDArray[np.uint8], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """Find the upper left corner of each digit, (n, digits, 2)."""
    reaches = np.array([glyph.reach for glyph in glyphs])[order]
    return (CANVAS / 2 + CANVAS * centres - reaches).round().astype(np.int64)


def _cut(glyphs: tuple[Glyph, ...], draw: NDArray[np.float64]) -> tuple[int, int, int, int, int, int]:
    """Choose the digit of a square, its row and column in the digit, its side, and its row and column on the canvas."""
    digit = int(draw[0] * 10)
    shape = glyphs[digit].pixels.shape
    side = min(BLOCK * int(CROP[0] + draw[1] * (CROP[1] - CROP[0] + 1)), *shape)
    row, column = (int(draw[2 + axis] * (shape[axis] - side + 1)) for axis in (0, 1))
    top, left = (int(draw[4 + axis] * (CANVAS - side + 1)) for axis in (0, 1))
    return digit, row, column, side, top, left
