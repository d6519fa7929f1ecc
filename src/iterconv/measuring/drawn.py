"""``Drawn``: what results that have a picture share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from iterconv.errors import InputError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn:
    """A result with a picture; subclasses draw it."""

    def draw(self) -> "Figure":
        """Draw the picture."""
        raise NotImplementedError

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draw the picture, and write it to a file if one is named.

        Args:
            path: The file for the picture; its suffix (.png, .svg, .pdf) names the format.

        Returns:
            The matplotlib figure.

        Raises:
            InputError: If matplotlib is missing, the suffix is not a picture format, or the file can't be written.
        """
        require("matplotlib", "drawing")
        figure = self.draw()
        if path is not None:
            _write(figure, path)
        return figure


def _write(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write a figure to a file; raises ``InputError`` if its suffix is no picture format, or it can't be written."""
    from iterconv.figures.style import write  # late, as matplotlib is optional

    try:
        write(figure, Path(path))
    except ValueError as problem:
        raise InputError(f"can't draw to {path}: {problem}; use .png, .svg or .pdf") from None
    except OSError as problem:
        raise InputError(f"can't draw to {path} ({problem.strerror}); name a file in a folder that is") from None
