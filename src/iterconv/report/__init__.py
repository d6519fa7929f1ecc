"""Reports: HTML files that hold everything they show, on studies and on single results."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterconv.errors import InputError, check_choice, require
from iterconv.files import require_file
from iterconv.options import FigureStyle

if TYPE_CHECKING:
    from iterconv.report.picture import Picture


def check_html(path: Path | None = None) -> None:
    """Refuse before the work what would be refused after it: a file that can't be written, libraries that are missing.

    Args:
        path: The file of the page; None to look for the libraries only.

    Raises:
        InputError: If the name does not end in .html, the file can't be written, or a library is missing.
    """
    if path is not None:
        if path.suffix != ".html":
            raise InputError(f"--html {path} does not name a page; let it end in .html")
        require_file(path, "--html")
    for library in ("jinja2", "altair", "vl_convert"):
        require(library, "an HTML report")


def figure(name: str, results: str | os.PathLike[str] = "runs", *, style: FigureStyle = "paper") -> "list[Picture]":
    """Draw one of the paper's figures from finished runs.

    Source: Lippl et al., Fig. 1 to 13.

    Args:
        name: The name of the figure: ``"fig1"`` to ``"fig13"``, or ``"prefix"``.
        results: A folder of runs, or of tables as ``iterconv reproduce`` writes them.
        style: ``"paper"``, ``"slides"`` or ``"screen"``.

    Returns:
        One picture for each kind of data and network in the folder, with ``figure`` (matplotlib's, to be changed
        at will), ``caption`` and ``save``.

    Raises:
        InputError: If there is no such figure or style, the folder holds nothing to draw it from, or matplotlib is
            missing.
    """
    check_choice("style", style, FigureStyle)
    require("matplotlib", "drawing")
    from iterconv.report.pictures import draw_pictures, find_figure  # late, as matplotlib is optional
    from iterconv.studies.runs import load

    find_figure(name)
    return draw_pictures(name, load(Path(results)), style)


def write_result(result: Any, title: str, path: str | os.PathLike[str]) -> int:
    """Write a page about a result, such as that of ``iterconv.measure`` or ``iterconv.settle``.

    Args:
        result: A result of a kind that ``page_of`` knows.
        title: The heading of the page.
        path: The file, which appears whole or not at all.

    Returns:
        The size of the file in bytes.

    Raises:
        InputError: If a library is missing or the file can't be written.
    """
    path = Path(path)
    check_html(path)
    from altair.utils.schemapi import debug_mode

    from iterconv.report import depth, spans  # noqa: F401 - late, as altair is optional; they register their pages
    from iterconv.report.page import write_page
    from iterconv.report.single import page_of

    with debug_mode(False):  # the tests check the charts, which takes seconds
        return write_page(page_of(result, title), path)
