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

from iterconv.cli.commands import COMMANDS, Reproduce, Sweep, Train
from iterconv.cli.interruption import interruptible
from iterconv.cli.parsing import parse
from iterconv.errors import InputError, OptionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; the process's own by default.

    Returns:
        The exit code: 0, 1 if some runs failed, 2 for bad input, 130 after Ctrl-C.

    Raises:
        SystemExit: After help (0), and after tyro's complaints about words that can't be parsed (2).
    """
    command: Any = None
    try:
        command = parse(COMMANDS, list(sys.argv[1:] if arguments is None else arguments))
        # Only training has state to save first; everything else stops at once.
        saves = isinstance(command, Train | Reproduce | Sweep)
        with interruptible() if saves else contextlib.nullcontext(threading.Event()) as stop:
            code = command(stop)
            sys.stdout.flush()  # a closed pipe is noticed here, where it is handled, and not at exit
            return code
    except InputError as problem:
        words = problem.as_typed if isinstance(problem, OptionError) else str(problem)
        print(f"iterconv: {' '.join(words.split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        # Else Python would complain about the closed pipe once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as problem:
        if not _out_of_memory(problem):
            raise
        print("iterconv: out of memory; use a smaller --width, --batch-size or fewer --workers", file=sys.stderr)
        return 2
    except OSError as problem:
        place = f" {problem.filename}" if problem.filename else ""
        print(f"iterconv: {problem.strerror or problem}{place}; what was saved before is intact", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from here" if isinstance(command, Train | Reproduce | Sweep) else ""
        print(f"iterconv: stopped{goes_on}", file=sys.stderr)
        return 130


def _out_of_memory(problem: Exception) -> bool:
    # torch has an error of its own for accelerators only; on the CPU it is a RuntimeError like any other.
    return isinstance(problem, MemoryError) or re.search(r"allocate memory|out of memory", str(problem)) is not None
