"""The error that bad input raises."""

from importlib import import_module
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """Bad input of any kind: an option, file, shape, value, model or checkpoint.

    The message is one line that names the offending value and the remedy; the command line prints it
    and exits with code 2.
    """


class OptionError(InputError):
    """An option whose value does not fit; names it as Python does (``lr=0``), or as it is typed (``--lr 0``).

    Args:
        name: Of the option.
        value: Its value.
        problem: What is wrong with it, and the remedy.
    """

    def __init__(self, name: str, value: Any, problem: str) -> None:
        super().__init__(name, value, problem)

    def __str__(self) -> str:
        name, value, problem = self.args
        shown = str(value) if isinstance(value, Real) else repr(value)
        return f"{name}={shown:.40} {problem}"

    @property
    def as_typed(self) -> str:
        """The message for the command line."""
        name, value, problem = self.args
        return f"--{name.replace('_', '-')} {value!s:.40} {problem}"


def line_of(problem: BaseException) -> str:
    """What an exception says, in one short line."""
    return " ".join(str(problem).split())[:160] or type(problem).__name__


def require(module: str, purpose: str, extra: str = "repro") -> Any:
    """Import a module of a library that only some uses of iterconv need.

    Args:
        module: Its name.
        purpose: What needs it, as the subject of a sentence.
        extra: The extra of iterconv that installs it.

    Returns:
        The module.

    Raises:
        InputError: If the library is not installed, or installed and can't be imported.
    """
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name not in (library, module):
            raise InputError(f"{library} can't be imported ({line_of(problem)}); install it again") from None
        raise InputError(f"{purpose} needs {library}; pip install 'iterconv[{extra}]'") from None
    except (ImportError, OSError, RuntimeError) as problem:  # installed, but broken or not fitting
        raise InputError(f"{library} can't be imported ({line_of(problem)}); install it again") from None


def check_number(name: str, value: Any, *, whole: bool = False) -> None:
    """Raise ``InputError`` for what is no number, or no whole one.

    Args:
        name: Of the option.
        value: Its value; anything that counts as a real number is fine, save truth values.
        whole: Whether it has to be an integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise OptionError(name, value, f"is no {'whole ' * whole}number")
