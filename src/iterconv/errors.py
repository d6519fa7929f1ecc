"""The error that bad input raises, and the checks that options share."""

import difflib
import functools
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args


class InputError(ValueError):
    """Bad input of any kind: an option, file, shape, value, model or checkpoint.

    The message is one line that names the offending value and the remedy; the command line prints it
    and exits with code 2.
    """


def shown(value: Any) -> str:
    """Format a value for a message: on one line, and cut off if it is long."""
    # NumPy's numbers are shown as plain ones; their repr would be `np.float64(0.5)`.
    return " ".join((str(value) if isinstance(value, Real) else repr(value)).split())[:40]


def suggest(name: str, known: Iterable[str]) -> str:
    """Advise a user who gave an unknown name: ask for the nearest known one, or list them all.

    Args:
        name: The unknown name.
        known: All known names.

    Returns:
        The rest of a sentence.
    """
    known = list(known)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}"


class OptionError(InputError):
    """An option whose value does not fit, named as in Python (``lr=0``) or as it is typed (``--lr 0``).

    Args:
        name: The name of the option.
        value: The value of the option.
        problem: The problem and its remedy, as the rest of a sentence.
    """

    def __init__(self, name: str, value: Any, problem: str) -> None:
        # The parts are kept as arguments, so that the error can be pickled on its way from another process.
        super().__init__(name, value, problem)

    def __str__(self) -> str:
        name, value, problem = self.args
        return f"{name}={shown(value)} {problem}"

    @property
    def as_typed(self) -> str:
        """The message for the command line."""
        name, value, problem = self.args
        return f"--{name.replace('_', '-')} {value!s:.40} {problem}"


def line_of(problem: BaseException, most: int = 160) -> str:
    """Return the message of an exception in one line of at most so many characters, cut off between words."""
    line = " ".join(str(problem).split()) or type(problem).__name__
    return line if len(line) <= most else f"{line[: most - 4].rsplit(' ', 1)[0]} ..."


def describe_error(problem: BaseException, most: int = 160) -> str:
    """Return the class and the message of an exception in one line."""
    return f"{type(problem).__name__}: {line_of(problem, most)}"


def require(module: str, purpose: str, extra: str = "repro") -> Any:
    """Import a module of a library that only some uses of iterconv need.

    Args:
        module: The name of the module.
        purpose: The use that needs it, as the subject of a sentence.
        extra: The extra of iterconv that installs the library.

    Returns:
        The module.

    Raises:
        InputError: If the library is not installed or can't be imported.
    """
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name not in (library, module):  # the library is there, but one that it needs is missing
            raise InputError(f"{library} can't be imported ({line_of(problem)}); install it again") from None
        raise InputError(f"{purpose} needs {library}; pip install 'iterconv[{extra}]'") from None
    except (ImportError, OSError, RuntimeError) as problem:  # the library is broken or does not fit the others
        raise InputError(f"{library} can't be imported ({line_of(problem)}); install it again") from None


def check_number(name: str, value: Any, *, whole: bool = False) -> Any:
    """Raise ``InputError`` unless an option is a number, or a whole number.

    Args:
        name: The name of the option.
        value: The value; every real number counts, NumPy's too, but truth values do not.
        whole: True if the value has to be an integer.

    Returns:
        The value as a plain number of Python.
    """
    # Truth values are integers to Python, but `blocks=True` is a mistake.
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise OptionError(name, value, f"is not a {'whole ' * whole}number")
    return int(value) if isinstance(value, Integral) else float(value)


def check_count(name: str, value: Any, least: int = 1, *, why: str = "is too small") -> int:
    """Raise ``InputError`` unless an option is a whole number from ``least`` on that 64 bits can hold.

    Args:
        name: The name of the option.
        value: The value of the option.
        least: The smallest value that is allowed.
        why: The complaint about smaller values, as a predicate.

    Returns:
        The value as a plain number of Python.
    """
    count = int(check_number(name, value, whole=True))
    if count < least:
        raise OptionError(name, count, f"{why}; use {least} or more")
    if count >= 2**63:
        raise OptionError(name, count, "is too large; use less than 2**63")
    return count


def check_range(name: str, value: Any, allowed: str, remedy: str) -> Any:
    """Raise ``InputError`` unless an option is a number in an interval.

    Args:
        name: The name of the option.
        value: The value; NaN is in no interval.
        allowed: The interval, as ``"[0, 1)"`` or ``"(0, inf)"``.
        remedy: The advice to the user.

    Returns:
        The value as a plain number of Python.
    """
    number = check_number(name, value)
    low, high = map(float, allowed[1:-1].split(","))
    inside = low <= number <= high and (allowed[0] == "[" or number > low) and (allowed[-1] == "]" or number < high)
    if not inside:
        raise OptionError(name, number, f"is not in {allowed}; {remedy}")
    return number


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise ``InputError`` unless an option is one of some words.

    Args:
        name: The name of the option.
        value: The value of the option.
        choices: A ``Literal`` of ``iterconv.options``, or the words.
    """
    words = get_args(choices) or tuple(choices)
    if not isinstance(value, str) or value not in words:
        first = ", ".join(map(repr, words[:-1]))
        raise OptionError(name, value, f"is unknown; use {first} or {words[-1]!r}")


SHARE = 0.25
"""The share of the free memory that one thing may take; while data are loaded, there are up to three copies of them."""


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Raise ``InputError``, before anything is allocated, if more than a quarter of the free memory would be taken.

    Args:
        needed: The number of bytes.
        what: The name of the thing that takes them, as the subject of the message.
        remedy: The advice to the user.
    """
    free = free_memory()
    if needed > SHARE * free:
        raise InputError(
            f"{what} would take {needed / 2**30:.3g} GiB of memory, more than a quarter of the {free / 2**30:.3g} GiB "
            f"that are free; {remedy}"
        )


def free_memory() -> float:
    """Return the bytes that can still be allocated: the least of the system's, the container's and the process's."""
    limits = [float("inf")]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, ValueError):  # the file holds "max" if there is no limit
        # In a container, the file above tells the memory of the whole machine.
        limits.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(ImportError):  # Windows has no such module
        from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit

        limits += [float(limit) for limit in getrlimit(RLIMIT_AS)[:1] if limit != RLIM_INFINITY]
    return min(limits)


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def rename_options(
    values: dict[Any, Any] | None = None, /, **names: str
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Let a function take options by the names that they had in earlier versions, with a ``DeprecationWarning``.

    Args:
        values: The new values of options whose values have been renamed as well, by the old value.
        names: The new name of each option by its old one.

    Returns:
        A decorator.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            for old, new in names.items():
                if old in kwargs and new not in kwargs:
                    warnings.warn(f"{old}= is now called {new}=", DeprecationWarning, stacklevel=2)
                    value: Any = kwargs.pop(old)
                    kwargs[new] = (values or {}).get(value, value) if isinstance(value, str) else value
            return function(*args, **kwargs)

        return wrapped

    return decorate
