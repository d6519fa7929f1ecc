"""The command ``controls`` and its options; see ``commands.py``."""

import threading
from dataclasses import dataclass
from pathlib import Path

from tyro import conf

from iterconv.cli.commands_of_studies import Json


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Check every instrument on subjects whose answer is known, some of which are trained for that, in minutes.

    Exits with 1 if an instrument comes out on the wrong side.
    """

    names: conf.Positional[tuple[str, ...]] = ()
    """The names of the controls; all of them by default."""
    module: str | None = None
    """A module of yours that registers further controls (iterconv.controls.register); its code is run."""
    out: Path | None = None
    """The file of the table (.csv)."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Make the subjects and apply the instruments."""
        from iterconv.cli.controls import check_controls

        return check_controls(self.names, self.module, self.out)
