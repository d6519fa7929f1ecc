"""A picture: one of the paper's figures with its caption, as files."""

import os
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from iterconv.errors import InputError
from iterconv.figures.style import in_style, write
from iterconv.files import write_atomically, writing
from iterconv.options import FigureStyle

FORMATS = (".pdf", ".svg", ".png")
"""The formats of figures; all but the last consist of lines and letters, which stay sharp at any size."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with the name of its files and a caption."""

    name: str
    caption: str
    figure: Figure
    """The figure, whose axes and lines can still be changed."""
    style: FigureStyle = "screen"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the figure, which holds its caption, and the caption as text beside it.

        Args:
            path: The file, .pdf, .svg or .png; the caption goes into the .txt file of the same name.

        Raises:
            InputError: If the format is unknown, or a file can't be written.
        """
        path = Path(path)
        check_format(path)
        with in_style(self.style), writing(path):
            write(self.figure, path, self.name, self.caption)
            write_atomically(path.with_suffix(".txt"), f"{self.caption}\n".encode())


def check_format(path: Path) -> None:
    """Raise ``InputError`` if a name does not end as one of ``FORMATS`` does."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path} does not name a figure; let it end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
