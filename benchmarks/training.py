"""Training: the package's loop against a careful one in plain PyTorch, each in a process of its own with one thread."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ratios import Row, compare, fastest_precision

SCRIPT = Path(__file__).with_name("train_once.py")

FASTEST = fastest_precision()
SETTINGS = {
    # name: (precision, width, stages, target)
    "train-w8-s1": (FASTEST, 8, 1, "at least 1.7"),
    "train-w8-s3": (FASTEST, 8, 3, "at least 1.7"),
    "train-w16-s1": (FASTEST, 16, 1, "at least 1.95"),
    "train-w16-s3": (FASTEST, 16, 3, "at least 1.95"),
    "train-exact-w8-s1": ("float32", 8, 1, "at least 1.3"),
    "train-exact-w16-s3": ("float32", 16, 3, "at least 1.3"),
}


class Epochs:
    """Epochs of one way to train, each in a new process; the losses are kept."""

    def __init__(self, way: str, width: int, stages: int, images: int) -> None:
        size = 28 if stages == 1 else 32
        self.words = [way, *map(str, (width, stages, images, size))]
        self.losses: list[float] = []

    def __call__(self) -> float:
        """Train an epoch, and return the CPU seconds of an image."""
        command = [sys.executable, str(SCRIPT), *self.words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        seconds, loss = map(float, printed.split())
        self.losses.append(loss)
        return seconds


def training(quick: bool) -> Iterator[Row]:
    """Train an epoch of random images."""
    for name, (precision, width, stages, target) in SETTINGS.items():
        images = (1280 if quick else 5120) // (width // 8 * stages)
        ours, plain = Epochs(precision, width, stages, images), Epochs("plain", width, stages, images)
        row = compare(name, target, ours, plain, "", rounds=1 if quick else 5, warm_up=False)
        losses = statistics.mean(ours.losses), statistics.mean(plain.losses)
        note = (
            f"CPU seconds an image; {precision}, width {width}, {stages} x 16 blocks, {images} images; training losses "
            f"{losses[0]:.3f} and {losses[1]:.3f}; {1 / row.ours_s:.0f} against {1 / row.theirs_s:.0f} images a second"
        )
        yield Row(name, row.ratio, target, row.ours_s, row.theirs_s, row.spread, row.n, note)
