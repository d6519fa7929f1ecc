"""The command ``exits``."""

from pathlib import Path
from typing import Any

from iterconv.cli.console import bar, console
from iterconv.cli.pages import check_files, write_page
from iterconv.errors import OptionError
from iterconv.measuring.bootstrap import check_bootstrap
from iterconv.options import Against
from iterconv.settling.exit_frontier import check_json_file
from iterconv.settling.exits import check_rules, exits
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import open_model


def exits_of_model(
    name: str, options: ModelOptions, out: Path | None, html: Path | None, against: Against | None, **settings: Any
) -> int:
    """Measure exit rules of a model with a progress bar, print and draw the frontier.

    Args:
        name: The name of the model, as for ``open_model``.
        options: The options of the model and its data.
        out: The frontier's file, .json; by default ``exits-<against>.json`` in a run's folder, else named by the model.
        html: The file of a page about the exits, if one is wanted.
        against: The reference of errors; by default the labels, if there are any.
        settings: Further options of ``iterconv.exits``.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or the file can't be written.
    """
    check_rules(settings["rules"])
    check_bootstrap(settings["resamples"], 0.95, 0)
    check_files(check_json_file, out, html)
    console.doing(f"opening {name}")
    opened = open_model(name, options)
    against = against or opened.against
    out = out or opened.file_for(f"exits-{against}.json")
    check_files(check_json_file, out)
    if opened.batch_size and len(opened.batches) < 2:
        problem = "makes one batch of all examples, which can't be halved to choose and to report; use a smaller one"
        raise OptionError("batch_size", opened.batch_size, problem)
    console.print(opened.note)
    with bar("examples", opened.examples) as advance:
        found = exits(opened.model, opened.batches, against=against, progress=advance, **settings)
    found.save(out)
    found.plot(out.with_suffix(".png"))
    console.emit(model=name, result=out, frontier=found.frontier.to_dict("records"))
    console.print(found.frontier.to_string(index=False, float_format="{:.4g}".format))
    console.print(
        "blocks are means over examples; search_error is on the half of the batches that chose the thresholds"
    )
    write_page(found, f"{name}: when may an example stop?", html)
    console.print(f"frontier in {out}, picture in {out.with_suffix('.png')}")
    return 0
