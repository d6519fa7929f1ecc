"""A control: a subject whose answer is known, and what each instrument has to say about it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from iterconv.errors import check_range

EXACT = 1e-12
"""The relative error of double precision, and some room."""


class UnavailableError(Exception):
    """What a control needs, such as a file of weights, is not at hand; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One instrument's answer about a control's subject, beside the known one."""

    instrument: str
    """The instrument, as ``DI`` or ``growth``."""
    expected: str
    """The known answer."""
    found: str
    """The instrument's answer."""
    passed: bool
    """True if they agree."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A subject whose answer is known. ``iterconv.controls.register`` adds one of yours to ``iterconv controls``."""

    name: str
    """The name in tables and on the command line."""
    statement: str
    """What is known about the subject, as a sentence."""
    examine: Callable[[], Sequence[Check]]
    """A function that makes the subject, applies the instruments and returns the checks. It raises
    `UnavailableError` if what it needs is not at hand."""
    cost: float = 5.0
    """Its seconds on an ordinary core, more or less; the time left is estimated from it."""

    def __post_init__(self) -> None:
        """Refuse a cost that is not positive."""
        check_range("cost", self.cost, "(0, inf)", "it is a number of seconds")


def check_range_of(instrument: str, values: Any, low: float, high: float) -> Check:
    """Check that numbers are in a closed interval.

    Args:
        instrument: The instrument.
        values: A number, or several, none of which may leave the interval. NaN is outside.
        low: The lower end; minus infinity for none.
        high: The upper end; infinity for none.

    Returns:
        The check; it fails where there are no values.
    """
    numbers = [float(value) for value in (values if isinstance(values, Iterable) else [values])]
    if low == high:
        expected = f"{low:.4g}"
    elif low == float("-inf"):
        expected = f"at most {high:.4g}"
    else:
        expected = f"at least {low:.4g}" if high == float("inf") else f"{low:.4g} to {high:.4g}"
    ends = dict.fromkeys(f"{end:.4g}" for end in (min(numbers), max(numbers))) if numbers else ["nothing"]
    passed = bool(numbers) and all(low <= number <= high for number in numbers)
    return Check(instrument=instrument, expected=expected, found=" to ".join(ends), passed=passed)


def check_close(instrument: str, found: float, value: float) -> Check:
    """Check that a number is the known one but for rounding in double precision.

    Args:
        instrument: The instrument.
        found: The number.
        value: The known number.

    Returns:
        The check.
    """
    passed = abs(found - value) <= EXACT * max(1.0, abs(value))
    return Check(instrument=instrument, expected=f"{value:.4f}", found=f"{found:.4f}", passed=bool(passed))


def check_equal(instrument: str, found: Any, expected: Any) -> Check:
    """Check that an answer is the known one.

    Args:
        instrument: The instrument.
        found: The answer.
        expected: The known answer.

    Returns:
        The check.
    """
    return Check(instrument=instrument, expected=str(expected), found=str(found), passed=bool(found == expected))
