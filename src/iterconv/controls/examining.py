"""``examine``: apply the instruments to one control, whatever comes of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from iterconv.controls.control import Check, Control, UnavailableError
from iterconv.errors import InputError, describe_error, line_of


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a control."""

    control: Control
    """The control."""
    checks: Sequence[Check]
    """Its checks; none if it was skipped."""
    skipped: str
    """What it lacks, or an empty string."""
    seconds: float
    """The seconds that it took."""

    @property
    def passed(self) -> bool:
        """True unless a check failed; a control that was skipped has not failed."""
        return all(check.passed for check in self.checks)


def examine(control: Control) -> Outcome:
    """Apply the instruments to a control.

    Args:
        control: The control.

    Returns:
        The outcome. A control that raises an error, or checks nothing, has failed.

    Raises:
        InputError: If ``examine`` of the control returns something else than checks.
    """
    began, skipped = time.monotonic(), ""
    checks: Sequence[Check] = ()
    try:
        checks = list(control.examine())
    except UnavailableError as problem:
        skipped = line_of(problem)
    except Exception as problem:  # an instrument that raises an error has not come out on its side either
        checks = [_failed(describe_error(problem))]
    wrong = [check for check in checks if not isinstance(check, Check)]
    if wrong:
        raise InputError(f"the control {control.name!r} returned {type(wrong[0]).__name__}; let it return checks")
    if not checks and not skipped:
        checks = [_failed("no checks")]
    return Outcome(control=control, checks=checks, skipped=skipped, seconds=time.monotonic() - began)


def _failed(found: str) -> Check:
    return Check(instrument="control", expected="checks", found=found, passed=False)
