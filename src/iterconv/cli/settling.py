"""The commands ``settle`` and ``depth``."""

from pathlib import Path
from typing import Any

from iterconv.cli.console import bar, console
from iterconv.cli.pages import check_files, write_page
from iterconv.errors import InputError, check_count
from iterconv.measuring.report import check_suffix
from iterconv.measuring.result import Result
from iterconv.measuring.shared_blocks import describe_shared, find_shared
from iterconv.options import Against
from iterconv.settling.damping import DampingSweep, check_dampings, sweep_damping
from iterconv.settling.depth import Depth, depth
from iterconv.settling.settled import Settling
from iterconv.settling.settling import check_settling, find_span, settle
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import OpenedModel, open_model


def settle_model(
    name: str,
    options: ModelOptions,
    out: Path | None,
    html: Path | None,
    against: Against | None,
    damping: tuple[float, ...] = (1.0,),
    **settings: Any,
) -> int:
    """Apply a block of a model again and again, print what states and predictions do, and draw it.

    Args:
        name: The name of the model, as for ``open_model``.
        options: The options of the model and its data.
        out: The file of the result; by default ``settling-<against>.parquet`` in a run's folder, else named by the
            model, with ``damping`` for ``settling`` if several parts are tried.
        html: The file of a page about the result, if one is wanted; it shows one part of a step.
        against: The reference of errors; by default the labels, if there are any.
        damping: The part of each further step that is taken, or several of them.
        settings: Further options of ``iterconv.settle``.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or the file can't be written.
    """
    check_settling(*(settings[option] for option in ("stage", "span", "steps", "tolerance")))
    parts = check_dampings(damping)
    if html and len(parts) > 1:
        raise InputError(f"--html {html} shows one part of a step, and {len(parts)} are tried; give one --damping")
    check_files(check_suffix, out, html)
    console.doing(f"opening {name}")
    opened = open_model(name, options)
    against = against or opened.against
    out = _choose_out(opened, out, f"{'damping' if len(parts) > 1 else 'settling'}-{against}")
    find_span(opened.model.stages, settings["stage"], settings["span"])
    console.print(opened.note)
    with bar("examples", opened.examples) as advance:
        settings |= {"against": against, "progress": advance}
        if len(parts) > 1:
            found: Settling | DampingSweep = sweep_damping(opened.model, opened.batches, parts, **settings)
        else:
            found = settle(opened.model, opened.batches, damping=parts[0], **settings)
    console.doing("drawing")
    _write(found, out)
    facts = {"model": name, "result": out, "steps": found.steps.to_dict("records"), "options": found.options}
    if isinstance(found, Settling):
        console.emit(**facts, shares=found.shares())
        _show_settling(found)
        write_page(found, f"{name}: does it settle?", html)
    else:
        console.emit(**facts, table=found.table.to_dict("records"))
        _show_sweep(found)
    shared = describe_shared([number for number in find_shared(opened.model.stages) if number == settings["stage"]])
    console.print(
        *([f"{shared}\n"] if shared else []), f"result in {out}, picture in {out.with_suffix('.png')}", sep=""
    )
    return 0


def depth_model(
    name: str,
    options: ModelOptions,
    out: Path | None,
    html: Path | None,
    against: Against | None,
    extra_evaluations: int,
) -> int:
    """Read a model out after each of its blocks, print the curve, and draw it.

    Args:
        name: The name of the model, as for ``open_model``.
        options: The options of the model and its data.
        out: The file of the result; by default ``depth-<against>.parquet`` in a run's folder, else named by the model.
        html: The file of a page about the result, if one is wanted.
        against: The reference of errors; by default the labels, if there are any.
        extra_evaluations: The evaluations of the last block beyond the ordinary pass.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or the file can't be written.
    """
    check_count("extra_evaluations", extra_evaluations, 0)
    check_files(check_suffix, out, html)
    console.doing(f"opening {name}")
    opened = open_model(name, options)
    against = against or opened.against
    out = _choose_out(opened, out, f"depth-{against}")
    console.print(opened.note)
    with bar("examples", opened.examples) as advance:
        found = depth(
            opened.model, opened.batches, against=against, extra_evaluations=extra_evaluations, progress=advance
        )
    console.doing("drawing")
    _write(found, out)
    console.emit(model=name, result=out, curve=found.curve.to_dict("records"), best=found.best)
    _show_depth(found)
    write_page(found, f"{name}: which depth is best?", html)
    console.print(f"result in {out}, picture in {out.with_suffix('.png')}")
    return 0


def _choose_out(opened: OpenedModel, out: Path | None, name: str) -> Path:
    out = out or opened.file_for(f"{name}.parquet")
    check_files(check_suffix, out)
    return out


def _write(found: Result, out: Path) -> None:
    found.save(out)
    found.plot(out.with_suffix(".png"))


def _show_sweep(found: DampingSweep) -> None:
    console.print(found.table.to_string(index=False, float_format="{:.3g}".format))
    console.print("error to growth at the last step; residual, growth and exponent are medians\n")
    console.print(found.verdicts.rename_axis(None).rename_axis(None, axis=1).to_string(float_format="{:.1%}".format))
    console.print(f"shares of {found.options['examples']} examples, by the part of each step that is taken")


def _show_settling(found: Settling) -> None:
    steps = found.steps.drop(columns=["residual_low", "residual_high", "n"])
    console.print(steps.to_string(index=False, float_format="{:.3g}".format))
    console.print("residual, angle (degrees) and growth are medians over the examples whose state is finite\n")
    console.print(found.verdicts.rename_axis(None).rename_axis(None, axis=1).to_string())
    shares = ", ".join(f"{share:.1%} {what}" for what, share in found.shares().items())
    console.print(f"{shares} (n = {found.options['examples']} examples)")
    finite = float(found.steps["finite"].iloc[-1])
    if finite < 1:
        console.print(f"{1 - finite:.1%} of the states are not finite at the last step; their outputs count as guesses")
    if found.options["growth"]:
        exponent = float(found.examples["exponent"].median())
        console.print(f"finite-time Lyapunov exponent {exponent:.3g} nats an application (median)")


def _show_depth(found: Depth) -> None:
    shown = found.curve.assign(stage=found.curve.stage + 1, block=found.curve.block + 1)  # printed numbers count from 1
    console.print(shown.to_string(index=False, float_format="{:.3f}".format))
    trained, worse = found.options["trained"], found.overthinking
    ends = f"it is worse from {worse} on" if worse else "it does not get clearly worse for good at any depth"
    console.print(f"trained depth {trained}, best depth {found.best}; {ends} (n = {found.options['examples']})")
    median = found.examples["settling_depth"].astype(float).median()
    console.print(f"half of the predictions are settled at depth {median:g}; examples are numbered in their order")
