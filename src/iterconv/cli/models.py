"""The commands ``measure`` and ``plan``."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv import lipschitz
from iterconv.adapters.rebuild import layers_of
from iterconv.cli.console import bar, console
from iterconv.cli.pages import check_files, write_page
from iterconv.cli.tables import check_table, index_records, show_indices
from iterconv.errors import InputError, OptionError, check_count
from iterconv.files import require_file, require_folder, write_atomically, writing
from iterconv.measuring.bootstrap import check_bootstrap
from iterconv.measuring.measurement import check_extent, measure
from iterconv.measuring.report import Report, check_suffix
from iterconv.measuring.shared_blocks import describe_shared
from iterconv.options import Against, MeasuringPrecision
from iterconv.paths import full_route
from iterconv.planning.frontier import Plan
from iterconv.planning.planning import plan
from iterconv.planning.search import last_number
from iterconv.tasks.batches import first_rows, inputs_of
from iterconv.zoo.hugging_face import save_beside
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import OpenedModel, is_function, open_model
from iterconv.zoo.smaller import write

AUDITED = 16
"""The number of examples on which the command line measures local Lipschitz constants."""


def measure_model(
    name: str,
    options: ModelOptions,
    out: Path | None,
    html: Path | None,
    audit: bool,
    against: Against | None,
    **settings: Any,
) -> int:
    """Measure a trained run or a foreign model with a progress bar, print the indices and draw the curves.

    Args:
        name: The name of the model, as for ``open_model``.
        options: The options of the model and its data.
        out: The report's file; by default ``report-<against>.parquet`` in a run's folder, else named by the model.
        html: The file of a page about the report, if one is wanted.
        audit: True if the Lipschitz constants are audited too.
        against: The reference of errors; by default the labels, if there are any.
        settings: Further options of ``iterconv.measure``.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or the file can't be written.
    """
    # Opening a model takes long, so what can be refused is refused before; a module's code may register families.
    check_extent(settings["extra_evaluations"], () if is_function(name) else settings["families"])
    check_bootstrap(settings["resamples"], 0.95, 0)
    precision: MeasuringPrecision = "bf16" if options.precision == "bf16" else "weights"
    check_files(check_suffix, out, html)
    console.doing(f"opening {name}")
    opened = open_model(name, options)
    against = against or opened.against
    out = out or opened.place / f"{opened.file_stem or 'report'}-{against}.parquet"
    check_files(check_suffix, out)
    console.print(opened.note)
    with bar("examples", opened.examples) as advance:
        settings |= {"against": against, "precision": precision, "progress": advance}
        report = measure(opened.model, opened.batches, **settings)
    console.doing("drawing")
    with writing(out):
        report.save(out)
    report.plot(out.with_suffix(".png"))
    _show_report(report)
    console.print(f"report in {out}, picture in {out.with_suffix('.png')}")
    write_page(report, f"{name}: how iterative, how convergent?", html)
    error = {"error": report.intact_error, "chance": report.options["chance"], "examples": report.options["examples"]}
    console.emit(model=name, report=out, against=against, **error, indices=index_records(report.indices))
    if audit:
        _audit(name, opened)
    return 0


def _show_report(report: Report) -> None:
    show_indices(report.indices)
    if shared := describe_shared(report.options["shared_weights"]):
        console.print(shared)
    console.print(
        f"error {report.intact_error:.2%} of the unperturbed model against {report.options['against']}, chance "
        f"{report.options['chance']:.2%} (n = {report.options['examples']})"
    )
    if report.options.get("precision") == "bf16":
        console.print("multiplied in bfloat16, which moves errors and indices a little: see docs/any-model.md")


def _audit(name: str, opened: OpenedModel) -> None:
    """Measure and print the Lipschitz constants of all blocks on the first examples."""
    inputs = first_rows(inputs_of(next(iter(opened.batches)), opened.model), AUDITED)
    with bar("blocks", None) as advance:
        table = lipschitz.audit(opened.model, inputs, progress=advance)
    table = table.assign(stage=table.stage + 1, block=table.block + 1)  # printed numbers count from 1
    console.print(_format(table))
    console.emit(model=name, audit=table.to_dict("records"))


def plan_model(
    name: str,
    options: ModelOptions,
    out: Path | None,
    html: Path | None,
    keep: int | None,
    save: Path | None,
    against: Against | None,
    **settings: Any,
) -> int:
    """Plan which blocks of a model to drop or share with a progress bar, print and draw the frontier.

    Args:
        name: The name of the model, as for ``open_model``.
        options: The options of the model and its data.
        out: The frontier's file, .csv; a picture is drawn beside it.
        html: The file of a page about the plan, if one is wanted.
        keep: The number of blocks of a smaller model, which has to be on the frontier.
        save: The file or folder of the smaller model.
        against: The reference of errors; by default the labels, if there are any.
        settings: Further options of ``iterconv.plan``.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or a file can't be written.
    """
    if (keep is None) != (save is None):
        raise InputError("--blocks and --save belong together: how many blocks to keep, and where to save that model")
    check_count("beam", settings["beam"], why="keeps no route")
    if options.precision == "bf16":
        raise OptionError("precision", "bf16", "is for measure; plan in single precision")
    check_files(check_table, out, html)
    console.doing(f"opening {name}")
    opened = open_model(name, options)
    out = out or opened.file_for(f"plan-{settings['mode']}.csv")
    check_files(check_table, out)
    _check_smaller(opened, keep, save, settings)
    console.print(opened.note)
    with bar("steps", None) as advance:
        settings |= {"against": against or opened.against, "progress": advance}
        found = plan(opened.model, opened.batches, **settings)
    console.doing("drawing")
    with writing(out):
        write_atomically(out, found.frontier.to_csv(index=False).encode())
    found.plot(out.with_suffix(".png"))
    _show_plan(found)
    console.emit(model=name, frontier=out, routes=found.frontier.to_dict("records"))
    console.print(f"routes (blocks from 0) in {out}, picture (blocks from 1) in {out.with_suffix('.png')}")
    write_page(found, f"{name}: which blocks can go?", html)
    if keep is not None and save is not None:
        console.doing("saving")
        _save(name, found, keep, save, opened, options.data)
    return 0


def _show_plan(found: Plan) -> None:
    """Print the frontier, and those of the methods with which it is compared."""
    console.print(_format(found.frontier.drop(columns="route")))
    console.print("search_error is on the half of the batches that chose the routes, error on the other half")
    for method, own in found.baselines.groupby("method") if len(found.baselines) else ():
        console.print(f"what {method} would have dropped:")
        console.print(_format(own.drop(columns=["method", "route"])))


def _format(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format="{:.3f}".format)


def _check_smaller(opened: OpenedModel, keep: int | None, save: Path | None, settings: dict[str, Any]) -> None:
    """Refuse before the search, which takes long, the options that would be refused after it."""
    if opened.batch_size and len(opened.batches) < 2:
        problem = "makes one batch of all examples, which can't be halved to search and to report; use a smaller one"
        raise OptionError("batch_size", opened.batch_size, problem)
    if keep is None or save is None:
        return
    stages = opened.model.stages
    total = sum(len(stage.blocks) for stage in stages)
    mode, last = settings["mode"], last_number(settings["mode"], settings["budget"], total)
    last = max(last, len(stages)) if mode == "share" else last  # weights are shared within a stage
    if not min(last, total) <= keep <= max(last, total):
        reach = f"{min(last, total)} to {max(last, total)}"
        raise OptionError("blocks", keep, f"is out of reach; use {reach}, or another --budget")
    if save.suffix == ".yaml":
        layers_of(opened.model, full_route(stages))  # raises if its layers have no numbers
        require_file(save, "--save")
    elif _saves_itself(opened.model):
        require_folder(save, "--save")
    elif save.suffix != ".safetensors":
        raise InputError(f"--save {save} does not name a file of weights; let it end in .safetensors")
    else:
        require_file(save, "--save")


def _saves_itself(model: Any) -> bool:
    """Return True for a transformers model, also for an adapted one."""
    return hasattr(getattr(model, "model", model), "save_pretrained")


def _save(name: str, found: Plan, keep: int, path: Path, opened: OpenedModel, data: str | None) -> None:
    """Write a smaller model and tell the command that measures it, or write its recipe."""
    if path.suffix == ".yaml":
        with writing(path):
            write_atomically(path, found.recipe(keep, str(opened.origin.model).removeprefix("hf:")).encode())
        console.emit(model=name, blocks=keep, saved=path)
        console.print(f"the recipe of a model of {keep} blocks is in {path}, for mergekit-yaml")
        return
    with writing(path):
        words = ["iterconv", "measure", *_save_model(found, keep, path, opened), *(["--data", data] if data else [])]
    console.emit(model=name, blocks=keep, saved=path, opened_by=words)
    console.print(f"the model of {keep} blocks is in {path}; to open it: {shlex.join(words)}")


def _save_model(found: Plan, keep: int, path: Path, opened: OpenedModel) -> list[str]:
    """Write a smaller model; returns the words by which the command line names it."""
    smaller: Any = found.apply(keep)
    if _saves_itself(opened.model):
        smaller.save_pretrained(path)
        save_beside(str(opened.origin.model).removeprefix("hf:"), path)
        return [f"hf:{path}"]

    # The stages of a foreign model go by name, since a search with other weights might find other stages.
    stages = [stage.name for stage in getattr(found.model, "found", ())]
    write(path, smaller, opened.origin.extend(stages, found.route(keep)))
    code = opened.origin.code
    return [code, "--weights", str(path)] if code else [str(path)]
