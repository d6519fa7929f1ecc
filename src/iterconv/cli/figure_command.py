"""The command ``figure`` and its options; see ``commands.py``."""

import threading
from dataclasses import dataclass
from pathlib import Path

from tyro import conf

from iterconv.cli.commands_of_studies import DEFAULT_ROOT
from iterconv.options import FigureStyle


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Draw one of the paper's figures from finished runs, for a paper or slides, with its caption beside it."""

    name: conf.Positional[str]
    """The figure: fig1 to fig13, or prefix."""
    folder: conf.Positional[Path] = DEFAULT_ROOT
    """A folder of runs, or of tables, as runs/report-quick/tables or results/small."""
    style: FigureStyle = "paper"
    """The style: paper (7 inches wide), slides (16:9), or screen, as in the report."""
    out: Path | None = None
    """The file (.pdf, .svg or .png); by default the name of the figure with .pdf. If the folder holds several kinds of
    data or networks, each gets a figure and a file of its own, as fig3-1.pdf and fig3-2.pdf."""

    def __call__(self, stop: threading.Event) -> int:
        """Draw the figure."""
        from iterconv.cli.figure import draw

        return draw(self.name, self.folder, self.style, self.out or Path(f"{self.name}.pdf"))
