"""Digitclutter: our generator against the original pipeline's way, one ImageMagick process for each image."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ratios import Row, compare, cpu, cpu_of_children

from iterconv.data.digitclutter import generate

FONT_SIZE, CANVAS, SIZE = 300, 512, 32


def magick() -> str | None:
    """Find ImageMagick; other programs that are called convert are none."""
    for name in ("magick", "/usr/bin/convert", "convert"):
        path = shutil.which(name)
        if path and "ImageMagick" in subprocess.run([path, "--version"], capture_output=True, text=True).stdout[:40]:
            return path
    return None


def draw_by_process(program: str, count: int, digits: int, folder: Path) -> None:
    """Draw images as the original pipeline does: a process draws the digits on a canvas and makes it small."""
    generator = np.random.default_rng(0)
    for number in range(count):
        words = [program, "-size", f"{CANVAS}x{CANVAS}", "xc:rgb(119,119,119)", "-gravity", "center"]
        words += ["-font", "DejaVu-Sans-Bold", "-pointsize", str(FONT_SIZE), "-fill", "black", "-stroke", "white"]
        words += ["-strokewidth", "20"]
        for digit in generator.permutation(10)[:digits]:
            x, y = generator.uniform(-100, 100, 2).round().astype(int)
            words += ["-annotate", f"{x:+d}{y:+d}", str(digit)]
        words += ["-resize", f"{SIZE}x{SIZE}", "-colorspace", "Gray", str(folder / f"{number}.png")]
        subprocess.run(words, check=True, env={**os.environ, "MAGICK_THREAD_LIMIT": "1"})


def digitclutter(quick: bool) -> Iterator[Row]:
    """Make images of five digits."""
    program = magick()
    if program is None:
        raise SystemExit("digitclutter needs ImageMagick to compare with; install it (apt-get install imagemagick)")
    few, many = (3, 2000) if quick else (20, 10_000)

    def ours() -> float:
        return cpu(lambda: generate(many, 5, masks=False, workers=1))() / many

    def theirs() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return cpu_of_children(lambda: draw_by_process(program, few, 5, Path(folder))) / few

    note = f"CPU seconds an image; {many} images of five digits at a time by us, {few} by them, one thread each"
    yield compare("digitclutter", "at least 1000", ours, theirs, note, rounds=2 if quick else 5)
