"""Pages about single results, which commands write if they are asked to."""

from pathlib import Path
from typing import Any

from iterconv.cli.console import console
from iterconv.report import check_html, write_result


def check_page(html: Path | None) -> None:
    """Refuse before the work what would be refused after it; raises ``InputError``, and None stands for no page."""
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
