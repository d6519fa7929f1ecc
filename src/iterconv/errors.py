"""The error that bad input raises."""

from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """Bad input of any kind: an option, file, shape, value, model or checkpoint.

    The message is one line that names the offending value and the remedy; the command line prints it
    and exits with code 2.
    """


def check_number(name: str, value: Any, *, whole: bool = False) -> None:
    """Raise ``InputError`` for what is no number, or no whole one.

    Args:
        name: Of the option.
        value: Its value; anything that counts as a real number is fine, save truth values.
        whole: Whether it has to be an integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise InputError(f"{name}={value!r:.40} is no {'whole ' * whole}number")
