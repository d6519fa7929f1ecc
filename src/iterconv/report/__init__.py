"""Reports: HTML files that hold everything they show, on studies and on single results."""

import os
from pathlib import Path
from typing import Any

from iterconv.errors import InputError, require
from iterconv.files import require_file


def check_html(path: Path | None = None) -> None:
    """Refuse before the work what would be refused after it: a file that can't be written, libraries that are missing.

    Args:
        path: The file of the report, if it is known already.

    Raises:
        InputError: If the name does not end in .html, the file can't be written, or a library is missing.
    """
    if path is not None:
        if path.suffix != ".html":
            raise InputError(f"--html {path} does not name a page; let it end in .html")
        require_file(path)
    for library in ("jinja2", "altair", "vl_convert"):
        require(library, "an HTML report")


def write_result(result: Any, title: str, path: str | os.PathLike[str]) -> int:
    """Write a page about a result, such as that of ``iterconv.measure`` or ``iterconv.plan``.

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

    from iterconv.report.page import write_page
    from iterconv.report.single import page_of  # late, as altair is optional

    with debug_mode(False):  # the tests check the charts, which takes seconds
        return write_page(page_of(result, title), path)
