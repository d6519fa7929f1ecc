"""What the commands ``train``, ``measure``, ``plan`` and ``data`` do, and how they show it."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from iterconv.errors import InputError
from iterconv.options import Debris, Reference
from iterconv.subjects.wishes import Wishes
from iterconv.training.config import RunConfig

AUDITED = 16
"""Examples on which the command line measures local constants."""

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


def measure_model(
    name: str, wishes: Wishes, out: Path | None, audit: bool, reference: Reference | None, **options: Any
) -> int:
    """Measure a trained run or a foreign model, with a bar for its examples; tells the indices, draws the curves.

    Args:
        name: As for ``iterconv.subjects.open_subject``.
        wishes: What to measure it on.
        out: The report's file; ``report-<reference>.parquet`` in a run's folder, or a name of its own, by default.
        audit: Whether to audit the Lipschitz constants too.
        reference: What errors are taken against; labels where there are any by default.
        options: For ``iterconv.measure``.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or the file can't be written.
    """
    from iterconv import lipschitz
    from iterconv.batches import first_rows, inputs_of
    from iterconv.measurement import measure
    from iterconv.reports import known_suffix
    from iterconv.subjects import open_subject

    subject = open_subject(name, wishes)
    against = reference or subject.reference
    out = out or subject.place / f"{subject.file_stem or 'report'}-{against}.parquet"
    known_suffix(out)
    require_folder(out.parent)
    console.print(subject.note)
    with bar("examples", subject.examples) as advance:
        report = measure(subject.model, subject.batches, reference=against, progress=advance, **options)
    report.save(out)
    report.plot(out.with_suffix(".png"))
    show_indices(report.indices)
    console.print(
        f"error {report.intact_error:.2%} of the unperturbed model against {against}, chance "
        f"{report.options['chance']:.2%} (n = {report.options['examples']})"
    )
    console.print(f"report in {out}, picture in {out.with_suffix('.png')}")
    if audit:
        inputs = first_rows(inputs_of(next(iter(subject.batches)), subject.model), AUDITED)
        with bar("blocks", None) as advance:
            table = lipschitz.audit(subject.model, inputs, progress=advance)
        console.print(table.to_string(index=False, float_format="{:.3f}".format))
    return 0


def plan_model(
    name: str,
    wishes: Wishes,
    out: Path | None,
    keep: int | None,
    save: Path | None,
    reference: Reference | None,
    **options: Any,
) -> int:
    """Plan which blocks of a model to drop or share, with a bar for the steps; tells and draws the frontier.

    Args:
        name: As for ``iterconv.subjects.open_subject``.
        wishes: What to plan on.
        out: The frontier's file, .csv; a picture is drawn beside it.
        keep: A number of blocks on the frontier to make a smaller model of.
        save: Where that model goes.
        reference: What errors are taken against; labels where there are any by default.
        options: For ``iterconv.plan``.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or a file can't be written.
    """
    from iterconv.files import write_atomically
    from iterconv.planning import plan
    from iterconv.subjects import open_subject

    if (keep is None) != (save is None):
        raise InputError("--keep and --save belong together: how many blocks to keep, and where to save that model")
    subject = open_subject(name, wishes)
    out = out or subject.place / f"{subject.file_stem or 'plan'}-plan-{options['saves']}.csv"
    if out.suffix != ".csv":
        raise InputError(f"--out {out} does not name a table; let it end in .csv")
    if save is not None and save.suffix != ".safetensors" and not _saves_itself(subject.model):
        raise InputError(f"--save {save} does not name a file of weights; let it end in .safetensors")
    for path in (out, save or out):
        require_folder(path.parent)
    console.print(subject.note)
    with bar("steps", None) as advance:
        found = plan(
            subject.model,
            subject.batches,
            reference=reference or subject.reference,
            progress=advance,
            **options,
        )
    write_atomically(out, found.frontier.to_csv(index=False).encode())
    found.plot().savefig(out.with_suffix(".png"))
    shown = found.frontier.drop(columns="route")
    console.print(shown.to_string(index=False, float_format="{:.3f}".format))
    console.print(f"routes in {out}, picture in {out.with_suffix('.png')}")
    if keep is not None and save is not None:
        _save(found.apply(keep), save, name)
        console.print(f"the model of {keep} blocks is in {save}")
    return 0


def _saves_itself(model: Any) -> bool:
    """Whether it is a transformers model, perhaps adapted."""
    return hasattr(getattr(model, "model", model), "save_pretrained")


def _save(model: Any, path: Path, name: str) -> None:
    if _saves_itself(model):
        from iterconv.subjects.hugging_face import save_beside

        model.save_pretrained(path)
        save_beside(name.removeprefix("hf:"), path)
    else:
        from safetensors.torch import save_model

        save_model(model, str(path))


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

    from iterconv.data.digitclutter import generate
    from iterconv.files import to_safetensors, write_atomically

    if out is None:
        raise InputError("--out is missing; name a file for the images that ends in .safetensors")
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"--out {out} does not name a file for the images; let it end in .safetensors")
    require_folder(out.parent)
    with bar("images", n) as advance:
        made = generate(n, digits, seed=seed, debris=debris, font=font, workers=workers, masks=False, progress=advance)
    arrays = {name: array for name, array in vars(made).items() if array is not None}
    write_atomically(out, to_safetensors({name: torch.from_numpy(array) for name, array in arrays.items()}))
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
        total: How many there are; where that is not known, it may be told with what is done.
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
        try:
            yield lambda done, of=total: progress.update(task, completed=done, total=of)
        except InputError:  # a refusal before any work is its line alone
            progress.live.transient = not progress.tasks[0].completed
            progress.update(task, visible=not progress.live.transient)
            raise


def require_folder(path: Path) -> None:
    """Make a folder, or raise ``InputError`` where that can't be done or nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # permissions alone don't tell
            pass
    except OSError as problem:
        raise InputError(f"can't write to {path} ({problem.strerror}); choose another --out") from None
