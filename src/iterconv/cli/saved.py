"""What is saved when a command is interrupted, found out from the files; without torch, which may not be there yet."""

import time
from collections import Counter
from pathlib import Path

from iterconv import files
from iterconv.cli.commands import Reproduce, Sweep, Train

GOES_ON = "the same command goes on from there"


def what_is_saved(command: object) -> str:
    """Say what an interrupted command has saved, and what can be done with it.

    Args:
        command: The command; None if it was interrupted before it was understood.

    Returns:
        One line.
    """
    if isinstance(command, Train):
        return _of_run(command.folder)
    if isinstance(command, Reproduce | Sweep):
        return _of_jobs(command.out)
    names = list(dict.fromkeys(str(path) for path in files.WRITTEN))
    if not names:
        return "nothing was written"
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more files" if len(names) > 3 else "")
    return f"{shown} had been written by then, and what is there is whole"


def _of_run(folder: Path) -> str:
    if (folder / "result.json").is_file():
        return f"the run in {folder} is finished"
    checkpoint, history = folder / "checkpoint.pt", folder / "history.csv"
    if not checkpoint.is_file():
        return "nothing was saved, and the same command begins anew"
    age = time.time() - checkpoint.stat().st_mtime
    when = "now" if age < 2 else f"{age:.0f} s ago"
    epochs = len(history.read_text().splitlines()) - 1 if history.is_file() else 0
    whole = not epochs or checkpoint.stat().st_mtime >= history.stat().st_mtime
    done = f"after {epochs} whole epoch(s)" if whole else f"in the course of epoch {epochs} or before"
    return f"its state was saved {when} in {folder}, {done}; {GOES_ON}"


def _of_jobs(root: Path) -> str:
    from iterconv.studies.leases import STATE, folder_of, read_state

    states = Counter(
        read_state(root, path.parent.name).state for path in folder_of(root).glob(f"*/{STATE}") if path.is_file()
    )
    if not states:
        return f"no run was begun in {root}"
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"of the runs that were ever begun in {root}, {counts}; {GOES_ON}"
