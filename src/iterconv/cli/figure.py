"""The command ``figure``."""

from pathlib import Path

from iterconv.cli.console import console
from iterconv.errors import require
from iterconv.files import require_file
from iterconv.options import FigureStyle
from iterconv.studies.runs import load


def draw(name: str, folder: Path, style: FigureStyle, out: Path) -> int:
    """Draw one of the paper's figures from finished runs, and write it with its caption.

    Args:
        name: The name of the figure.
        folder: A folder of runs or of tables.
        style: One of ``figures.style.STYLES``.
        out: The file; where there are several pictures, their files have its name with what tells them apart.

    Returns:
        The exit code.

    Raises:
        InputError: If there is no such figure, the folder holds nothing to draw it from, or a file can't be written.
    """
    require("matplotlib", "drawing")
    from iterconv.report.picture import check_format  # late, as matplotlib is optional
    from iterconv.report.pictures import draw_pictures, find_figure

    find_figure(name)
    check_format(out)
    for path in (out, out.with_suffix(".txt")):
        require_file(path)
    console.doing("reading results")
    tables = load(folder)
    console.doing("drawing")
    pictures = draw_pictures(name, tables, style)
    for picture in pictures:
        own = f"{out.stem}{picture.name.removeprefix(name)}{out.suffix}" if len(pictures) > 1 else out.name
        picture.save(out.with_name(own))
        console.print(f"{out.with_name(own)}: {picture.caption}")
    return 0
