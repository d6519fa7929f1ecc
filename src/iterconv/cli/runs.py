"""The commands ``train`` and ``data``."""

import contextlib
import shlex
import threading
from pathlib import Path
from typing import Any

import torch

from iterconv import data
from iterconv.cli.console import bar, console
from iterconv.cli.tables import index_records, show_indices
from iterconv.data.digitclutter import generate
from iterconv.errors import InputError
from iterconv.files import require_file, to_safetensors, write_atomically, writing
from iterconv.measuring.report import Report
from iterconv.options import Debris
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.run import complete


def train(config: RunConfig, path: Path, stop: threading.Event, **options: Any) -> int:
    """Train and measure one run with a progress bar, and print the error and the indices.

    Args:
        config: The configuration of the run.
        path: The run's folder.
        stop: An event that is set when the user interrupts.
        options: The other options of ``training.run.complete``.

    Returns:
        The exit code.

    Raises:
        InputError: If ``training.run.complete`` refuses the run.
    """
    run = config.resolved()
    network = f"{run.stages} stage(s) of {run.blocks} blocks, width {run.width}"
    console.print(f"{network}, on {run.data} for {run.epochs} epochs, in {path}")

    if run.stack > 1:
        console.print(f"--stack {run.stack}: a single run is trained alone; sweep and reproduce put runs into stacks")

    if RunFolder(path, config).finished:
        result = complete(config, path, stop=stop, **options)
        console.print("it was finished before: nothing was left to do")
    else:
        result = _complete(config, path, stop, **options)
    report = Report.load(path / "report.parquet")
    show_indices(report.indices)
    console.emit(folder=path, **result, indices=index_records(report.indices))
    console.print(f"test error {result['test_error']:.2%} (n = {result['test_examples']}), everything in {path}")
    return 0


def _complete(config: RunConfig, path: Path, stop: threading.Event, **options: Any) -> dict[str, Any]:
    """Train a run with a bar, and measure it with another."""
    epochs = config.resolved().epochs
    with contextlib.ExitStack() as shown:
        advance = shown.enter_context(bar("epochs", epochs))

        def on_epoch(row: dict[str, float]) -> None:
            advance(int(row["epoch"]))
            if row["epoch"] == epochs:  # what is left takes a while too
                shown.close()
                console.doing("measuring")

        return complete(config, path, on_epoch=on_epoch, stop=stop, **options)


def describe_data(name: str) -> int:
    """Load a data set and print its splits, classes and image size.

    Args:
        name: The name of the data set, as for ``iterconv.data.load``.

    Returns:
        The exit code.

    Raises:
        InputError: If the data set can't be loaded.
    """
    console.doing(f"loading {name}")
    dataset = data.load(name)
    height, width = dataset.image_size
    console.print(
        f"{name}: {len(dataset.train)} training, {len(dataset.validation)} validation and {len(dataset.test)} test "
        f"images of {height} x {width} pixels, {dataset.in_channels} channel(s), {dataset.classes} classes, "
        f"chance {dataset.chance:.1%}"
    )
    sizes = {split: len(getattr(dataset, split)) for split in ("train", "validation", "test")}
    shape = {"channels": dataset.in_channels, "height": height, "width": width}
    console.emit(data=name, **sizes, **shape, classes=dataset.classes, chance=dataset.chance)
    return 0


def make_digitclutter(
    out: Path | None, n: int, digits: int, seed: int, debris: Debris | None, font: str | None, workers: int
) -> int:
    """Make Digitclutter images with a progress bar, and write them to one file with its checksum.

    Args:
        out: The file; it gets images, targets, digits, centres and visible shares as ``generate`` returns them.
        n: The number of images.
        digits: The number of digits in each image.
        seed: The seed of the images.
        debris: The amount of debris: "light", "heavy" or None.
        font: The file of a font; None for the default.
        workers: The number of processes.

    Returns:
        The exit code.

    Raises:
        InputError: If an option is out of range or the file can't be written.
    """
    if out is None:
        raise InputError("--out is missing; name a file for the images that ends in .safetensors")
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out} does not name a file for the images; let it end in .safetensors")
    require_file(out)
    with bar("images", n) as advance:
        made = generate(n, digits, seed=seed, debris=debris, font=font, workers=workers, masks=False, progress=advance)
    arrays = {name: array for name, array in vars(made).items() if array is not None}
    with writing(out):
        write_atomically(out, to_safetensors({name: torch.from_numpy(array) for name, array in arrays.items()}))
    console.print(f"{n} images of {digits} digits, {made.visible.mean():.0%} of them visible, in {out}")
    console.emit(file=out, images=n, digits=digits, visible=made.visible.mean())
    console.print(f"to train on them: {shlex.join(['iterconv', 'train', '--data', str(out)])}")
    return 0
