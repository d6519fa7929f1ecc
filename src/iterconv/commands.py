"""What the commands ``train``, ``measure``, ``plan`` and ``data`` do, and how they show it."""

import shlex
import threading
from pathlib import Path
from typing import Any

from iterconv.errors import InputError, OptionError
from iterconv.options import Debris, Reference
from iterconv.subjects.options import ModelOptions
from iterconv.terminal import bar, console, require_file, require_folder, show_indices, writing
from iterconv.training.config import RunConfig

AUDITED = 16
"""Examples on which the command line measures local constants."""


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
    run = config.resolved()
    network = f"{run.stages} stage(s) of {run.blocks} blocks, width {run.width}"
    console.print(f"{network}, on {run.data} for {run.epochs} epochs, in {path}")
    from iterconv.reports import Report  # these take some seconds
    from iterconv.training.folder import RunFolder
    from iterconv.training.run import complete

    if RunFolder(path, config).finished:
        result = complete(config, path, device=device, stop=stop)
        console.print("it was finished before: nothing was left to do")
    else:
        with bar("epochs", run.epochs) as advance:
            result = complete(config, path, device=device, on_epoch=lambda row: advance(int(row["epoch"])), stop=stop)
    report = Report.load(path / "report.parquet")
    show_indices(report.indices)
    console.print(f"test error {result['test_error']:.2%} (n = {result['test_examples']}), everything in {path}")
    return 0


def measure_model(
    name: str, options: ModelOptions, out: Path | None, audit: bool, reference: Reference | None, **settings: Any
) -> int:
    """Measure a trained run or a foreign model, with a bar for its examples; tells the indices, draws the curves.

    Args:
        name: As for ``iterconv.subjects.open_subject``.
        options: What to measure it on.
        out: The report's file; ``report-<reference>.parquet`` in a run's folder, or a name of its own, by default.
        audit: Whether to audit the Lipschitz constants too.
        reference: What errors are taken against; labels where there are any by default.
        settings: For ``iterconv.measure``.

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

    subject = open_subject(name, options)
    against = reference or subject.reference
    out = out or subject.place / f"{subject.file_stem or 'report'}-{against}.parquet"
    known_suffix(out)
    for path in (out, out.with_suffix(".png")):
        require_file(path)
    console.print(subject.note)
    with bar("examples", subject.examples) as advance:
        report = measure(subject.model, subject.batches, reference=against, progress=advance, **settings)
    with writing(out):
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
        table = table.assign(stage=table.stage + 1, block=table.block + 1)  # as everything that is printed
        console.print(table.to_string(index=False, float_format="{:.3f}".format))
    return 0


def plan_model(
    name: str,
    options: ModelOptions,
    out: Path | None,
    keep: int | None,
    save: Path | None,
    reference: Reference | None,
    **settings: Any,
) -> int:
    """Plan which blocks of a model to drop or share, with a bar for the steps; tells and draws the frontier.

    Args:
        name: As for ``iterconv.subjects.open_subject``.
        options: What to plan on.
        out: The frontier's file, .csv; a picture is drawn beside it.
        keep: A number of blocks on the frontier to make a smaller model of.
        save: Where that model goes.
        reference: What errors are taken against; labels where there are any by default.
        settings: For ``iterconv.plan``.

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
    subject = open_subject(name, options)
    out = out or subject.place / f"{subject.file_stem}-plan-{settings['saves']}.csv".removeprefix("-")
    _check_places(subject, out, keep, save, settings)
    console.print(subject.note)
    with bar("steps", None) as advance:
        found = plan(
            subject.model,
            subject.batches,
            reference=reference or subject.reference,
            progress=advance,
            **settings,
        )
    with writing(out):
        write_atomically(out, found.frontier.to_csv(index=False).encode())
    with writing(out.with_suffix(".png")):
        found.plot().savefig(out.with_suffix(".png"))
    shown = found.frontier.drop(columns="route")
    console.print(shown.to_string(index=False, float_format="{:.3f}".format))
    console.print("search_error is on the half of the batches that chose the routes, error on the other half")
    console.print(f"routes (blocks from 0) in {out}, picture (blocks from 1) in {out.with_suffix('.png')}")
    if keep is not None and save is not None:
        with writing(save):
            opening = _save(found, keep, save, subject, options)
        words = shlex.join(["iterconv", "measure", *opening])
        console.print(f"the model of {keep} blocks is in {save}; to open it: {words}")
    return 0


def _check_places(subject: Any, out: Path, keep: int | None, save: Path | None, settings: dict[str, Any]) -> None:
    """Refuse before the search what would be refused after it."""
    from iterconv.planning import least_blocks

    if out.suffix != ".csv":
        raise InputError(f"--out {out} does not name a table; let it end in .csv")
    for path in (out, out.with_suffix(".png")):
        require_file(path)
    if subject.batch_size and len(subject.batches) < 2:
        problem = "makes one batch of all examples, which can't be halved to search and to report; use a smaller one"
        raise OptionError("batch_size", subject.batch_size, problem)
    if keep is None or save is None:
        return
    stages = subject.model.stages
    total = sum(len(stage.blocks) for stage in stages)
    least = least_blocks(settings["budget"], total)
    least = least if settings["saves"] == "blocks" else max(least, len(stages))  # weights are shared within a stage
    if not least <= keep <= total:
        raise OptionError("keep", keep, f"is out of reach; use {least} to {total}, or another --budget")
    if _saves_itself(subject.model):
        require_folder(save, "--save")
    elif save.suffix != ".safetensors":
        raise InputError(f"--save {save} does not name a file of weights; let it end in .safetensors")
    else:
        require_file(save, "--save")


def _saves_itself(model: Any) -> bool:
    """Whether it is a transformers model, perhaps adapted."""
    return hasattr(getattr(model, "model", model), "save_pretrained")


def _save(found: Any, keep: int, path: Path, subject: Any, options: ModelOptions) -> list[str]:
    """Write a smaller model; tells the words that measure it."""
    smaller = found.apply(keep)
    data = ["--data", options.data] if options.data else []
    if _saves_itself(subject.model):
        from iterconv.subjects.hugging_face import save_beside

        smaller.save_pretrained(path)
        save_beside(str(subject.origin.model).removeprefix("hf:"), path)
        return [f"hf:{path}", *data]
    from iterconv.subjects.smaller import write

    # Of a foreign model, the stages by name: with other weights, others might be found.
    stages = [stage.name for stage in getattr(found.model, "found", ())]
    write(path, smaller, subject.origin.further(stages, found.route(keep)))
    code = subject.origin.code
    return [code, "--weights", str(path), *data] if code else [str(path), *data]


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
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out} does not name a file for the images; let it end in .safetensors")
    require_file(out)
    with bar("images", n) as advance:
        made = generate(n, digits, seed=seed, debris=debris, font=font, workers=workers, masks=False, progress=advance)
    arrays = {name: array for name, array in vars(made).items() if array is not None}
    with writing(out):
        write_atomically(out, to_safetensors({name: torch.from_numpy(array) for name, array in arrays.items()}))
    console.print(f"{n} images of {digits} digits, {made.visible.mean():.0%} of them visible, in {out}")
    console.print(f"to train on them: {shlex.join(['iterconv', 'train', '--data', str(out)])}")
    return 0
