"""The command line: it turns words into calls and does nothing else.

Everything heavy is imported when a command runs, so that help is shown at once.
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Sequence
from typing import Any

from iterconv.cli.commands import COMMANDS, Completion, Reproduce, Sweep, Train
from iterconv.cli.interruption import interruptible
from iterconv.cli.parsing import parse
from iterconv.cli.saved import GOES_ON, what_is_saved
from iterconv.errors import InputError, OptionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; the process's own by default.

    Returns:
        The exit code: 0, 1 if some runs or controls failed, 2 for bad input, 130 after Ctrl-C, 141 if the reader of
        the output has gone.

    Raises:
        SystemExit: After help and the version.
    """
    command: Any = None
    try:
        command = parse(COMMANDS, list(sys.argv[1:] if arguments is None else arguments))
        code = command(threading.Event()) if isinstance(command, Completion) else _run(command)
        sys.stdout.flush()  # a closed pipe is noticed here, where it is handled, and not at exit
        return code
    except InputError as problem:
        words = problem.as_typed if isinstance(problem, OptionError) else str(problem)
        return _say(" ".join(words.split()), 2)
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        # Else Python would complain about the closed pipe once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(f"the reader of the output has gone; {GOES_ON}", 141) if _goes_on(command) else 141
    except (MemoryError, RuntimeError) as problem:
        if not _out_of_memory(problem):
            raise
        return _say("out of memory; use a smaller --width, --batch-size or fewer --workers", 2)
    except OSError as problem:
        place = f" {problem.filename}" if problem.filename else ""
        return _say(f"{problem.strerror or problem}{place}; what was saved before is intact", 2)
    except KeyboardInterrupt:
        return _say(f"stopped; {what_is_saved(command)}", 130)


def _run(command: Any) -> int:
    from iterconv.cli.console import console  # which help does not need

    with console.for_machines(getattr(command, "json", False)):
        console.doing("loading libraries")
        try:
            # Only training has state to save first; everything else stops at once.
            with interruptible() if _goes_on(command) else contextlib.nullcontext(threading.Event()) as stop:
                return int(command(stop))
        finally:
            console.done()


def _goes_on(command: Any) -> bool:
    return isinstance(command, Train | Reproduce | Sweep)


def _say(words: str, code: int) -> int:
    print(f"iterconv: {words}", file=sys.stderr)
    return code


def _out_of_memory(problem: Exception) -> bool:
    # torch has an error of its own for accelerators only; on the CPU it is a RuntimeError like any other.
    return isinstance(problem, MemoryError) or re.search(r"allocate memory|out of memory", str(problem)) is not None
