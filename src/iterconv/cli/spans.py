"""The command ``spans``."""

from pathlib import Path
from typing import Any

from iterconv.cli.console import bar, console
from iterconv.cli.pages import check_files, write_page
from iterconv.cli.tables import check_table
from iterconv.measuring.bootstrap import check_bootstrap
from iterconv.options import Against, SpanKind
from iterconv.planning.spans import SpanMap, spans
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import open_model


def map_spans(
    name: str,
    options: ModelOptions,
    out: Path | None,
    html: Path | None,
    against: Against | None,
    kinds: tuple[SpanKind, ...],
    **settings: Any,
) -> int:
    """Map what it costs to drop, repeat or swap every span of blocks, print the best spans, and draw the maps.

    Args:
        name: The name of the model, as for ``open_model``.
        options: The options of the model and its data.
        out: The table's file, .csv; a picture is drawn beside it.
        html: The file of a page about the maps, if one is wanted.
        against: The reference of errors; by default the labels, if there are any.
        kinds: The kinds of maps.
        settings: Further options of ``iterconv.spans``.

    Returns:
        The exit code.

    Raises:
        InputError: If the model or data can't be opened, an option is out of range or a file can't be written.
    """
    check_bootstrap(settings["resamples"], 0.95, 0)
    check_files(check_table, out, html)
    console.doing(f"opening {name}")
    opened = open_model(name, options)
    out = out or opened.file_for("spans.csv")
    check_files(check_table, out)
    console.print(opened.note)
    with bar("examples", opened.examples) as advance:
        settings |= {"kinds": kinds, "against": against or opened.against, "progress": advance}
        found = spans(opened.model, opened.batches, **settings)
    console.doing("drawing")
    found.save(out)
    found.plot(out.with_suffix(".png"))
    _show(found)
    console.emit(model=name, intact_error=found.intact_error, table=out, spans=found.table.to_dict("records"))
    write_page(found, f"{name}: which spans of blocks can go?", html)
    console.print(f"all spans (blocks from 0) in {out}, picture (blocks from 1) in {out.with_suffix('.png')}")
    return 0


def _show(found: SpanMap) -> None:
    """Print the spans of each kind that cost least."""
    console.print(f"error {found.intact_error:.2%} of the unperturbed model; the spans of each kind that cost least:")
    numbers = ["stage", "start"]  # printed numbers count from 1, and the end of a span is its last block
    shown = found.table.sort_values("change", kind="stable").groupby("kind", sort=False).head(5)
    shown = shown.sort_values("kind", kind="stable").assign(**{name: shown[name] + 1 for name in numbers})
    shown = shown.rename(columns={"start": "first", "end": "last"})
    console.print(shown.to_string(index=False, float_format="{:.3f}".format))
