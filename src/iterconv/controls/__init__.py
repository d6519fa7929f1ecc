"""Controls: subjects whose answers are known, on which each instrument has to come out on its side."""

from iterconv.controls import automaton, closed_forms, networks, prefix_sums
from iterconv.controls.control import Check as Check
from iterconv.controls.control import Control as Control
from iterconv.controls.control import UnavailableError as UnavailableError
from iterconv.controls.control import check_close as check_close
from iterconv.controls.control import check_equal as check_equal
from iterconv.controls.control import check_range_of as check_range_of
from iterconv.controls.examining import Outcome as Outcome
from iterconv.controls.examining import examine as examine
from iterconv.registry import Registry

CONTROLS = Registry(Control, [*closed_forms.CONTROLS, *prefix_sums.CONTROLS, *networks.CONTROLS, *automaton.CONTROLS])
"""All controls by name."""
register = CONTROLS.register

__all__ = [
    "CONTROLS",
    "Check",
    "Control",
    "Outcome",
    "UnavailableError",
    "check_close",
    "check_equal",
    "check_range_of",
    "examine",
    "register",
]
