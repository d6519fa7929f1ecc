"""What the commands ``train``, ``measure`` and ``data`` do, and how they show it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from iterconv.errors import InputError
from iterconv.options import Debris
from iterconv.training.config import RunConfig

console = Console(soft_wrap=True, highlight=False)


def train(config: RunConfig, path: Path, device: str | None, stop: threading.Event) -> int:
    """Train and measure one run with a bar for its epochs; tells the error and the indices.

    Args:
        config: The run.
        path: Its folder.
        device: A torch device, or None.
        stop: Set when the user interrupts.

    Returns:
        The exit code.

    Raises:
        InputError: As ``training.run.complete``.
    """
    from iterconv.reports import Report
    from iterconv.training.run import complete

    epochs = config.resolved().epochs
    with bar("epochs", epochs) as advance:
        result = complete(config, path, device=device, on_epoch=lambda row: advance(int(row["epoch"])), stop=stop)
    report = Report.load(path / "report.parquet")
    show_indices(report.indices)
    console.print(f"test error {result['test_error']:.2%} (n = {result['test_examples']}), everything in {path}")
    return 0


def measure_run(folder: Path, out: Path | None, audit: bool, device: str | None, **options: Any) -> int:
    """Measure a trained run anew, with a bar for its examples; tells the indices, draws the curves.

    Args:
        folder: The run's folder.
        out: The report's file; ``report-<reference>.parquet`` in the folder by default.
        audit: Whether to audit the Lipschitz constants too.
        device: A torch device, or None.
        options: For ``iterconv.measure``.

    Returns:
        The exit code.

    Raises:
        InputError: If the run can't be opened, an option is out of range or the file can't be written.
    """
    from iterconv import lipschitz
    from iterconv.measurement import measure
    from iterconv.training.run import open_run

    network, dataset, _ = open_run(folder, device)
    with bar("examples", len(dataset.test)) as advance:
        report = measure(network, dataset.batches(dataset.test), progress=advance, **options)
    out = out or folder / f"report-{report.options['reference']}.parquet"
    report.save(out)
    report.plot(out.with_suffix(".png"))
    show_indices(report.indices)
    console.print(f"report in {out}, picture in {out.with_suffix('.png')}")
    if audit:
        inputs, _ = dataset.batches(dataset.test, batch_size=64)[0]
        console.print(lipschitz.audit(network, inputs).to_string(index=False, float_format="{:.3f}".format))
    return 0


def describe_data(name: str) -> int:
    """Load a data set and tell its splits, classes and image size.

    Args:
        name: As for ``iterconv.data.load``.

    Returns:
        The exit code.

    Raises:
        InputError: If it can't be loaded.
    """
    from iterconv import data

    dataset = data.load(name)
    height, width = dataset.image_size
    console.print(
        f"{name}: {len(dataset.train)} training, {len(dataset.validation)} validation and {len(dataset.test)} test "
        f"images of {height} x {width} pixels, {dataset.in_channels} channel(s), {dataset.classes} classes, "
        f"chance {dataset.chance:.1%}"
    )
    return 0


def make_digitclutter(
    out: Path | None, n: int, digits: int, seed: int, debris: Debris | None, font: str | None, workers: int
) -> int:
    """Make Digitclutter images with a bar, and write them to one file with its checksum.

    Args:
        out: The file; images, targets, digits, centres and visible shares as ``generate`` returns them.
        n: How many images.
        digits: In each image.
        seed: Of the images.
        debris: "light", "heavy" or None.
        font: A font's file, or None.
        workers: Processes.

    Returns:
        The exit code.

    Raises:
        InputError: If an option is out of range or the file can't be written.
    """
    import torch

    from iterconv.data.cache import write_tensors
    from iterconv.data.digitclutter import generate

    if out is None or out.suffix != ".safetensors":
        raise InputError(f"--out {out} does not name a file for the images; let it end in .safetensors")
    require_folder(out.parent)
    with bar("images", n) as advance:
        made = generate(n, digits, seed=seed, debris=debris, font=font, workers=workers, masks=False, progress=advance)
    arrays = {name: array for name, array in vars(made).items() if array is not None}
    write_tensors(out, {name: torch.from_numpy(array) for name, array in arrays.items()})
    console.print(f"{n} images of {digits} digits, {made.visible.mean():.0%} of them visible, in {out}")
    return 0


def show_indices(indices: pd.DataFrame) -> None:
    """Print indices with intervals, stages as columns numbered from 1 as in the paper, and why some are undefined."""
    shown = indices.assign(
        text=[
            f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.defined else "undefined"
            for row in indices.itertuples()
        ]
    )
    shown["stage"] = [f"stage {stage + 1}" if stage != "mean" else "mean" for stage in shown.stage]
    wide = shown.pivot(index="index", columns="stage", values="text")
    console.print(wide[list(dict.fromkeys(shown.stage))].rename_axis(None, axis=1).to_string())
    for row in indices[(~indices.defined) & (indices.stage != "mean")].itertuples():
        console.print(f"{row.index} index of stage {row.stage + 1} is undefined: {row.reason}")


@contextmanager
def bar(what: str, total: float | None) -> Iterator[Any]:
    """A progress bar with the time left; yields a function that takes how much is done.

    Args:
        what: What is counted.
        total: How many there are.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def require_folder(path: Path) -> None:
    """Make a folder, or raise ``InputError`` where that can't be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"can't write to {path} ({problem.strerror}); choose another --out") from None
