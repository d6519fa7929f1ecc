"""The files of results: a result, the picture beside it, and a page about it if one is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from iterconv.cli.console import console
from iterconv.files import require_file
from iterconv.report import check_html, write_result


def check_files(check_name: Callable[[Path], Any], out: Path | None, html: Path | None = None) -> None:
    """Refuse before the work the files that would be refused after it.

    Args:
        check_name: A function that raises if the name of a result's file is not that of such a result.
        out: The file of the result, which has a picture beside it; None while it is not known.
        html: The file of the page; None for no page.

    Raises:
        InputError: If a file has a wrong name, or can't be written.
    """
    if out:
        check_name(out)
        for path in (out, out.with_suffix(".png")):
            require_file(path)
    if html:
        check_html(html)


def write_page(result: Any, title: str, html: Path | None) -> None:
    """Write a page about a result, and say where it is.

    Args:
        result: The result of a measurement.
        title: The heading of the page.
        html: The file; None for no page.

    Raises:
        InputError: If the file can't be written.
    """
    if html:
        console.doing("writing the page")
        size = write_result(result, title, html)
        console.print(f"page in {html} ({size / 1e6:.1f} MB)")
