"""The state of all jobs below a folder, for whoever watches: also from another machine, and without a launcher."""

from pathlib import Path

import pandas as pd

from iterconv.errors import InputError
from iterconv.studies import leases

COLUMNS = ("name", "state", "node", "note", "seconds_left", "deaths", "reason")
"""The columns of the table."""


def job_states(root: Path) -> pd.DataFrame:
    """Read the states of all jobs that were ever begun below a folder.

    Args:
        root: The folder of all jobs.

    Returns:
        One row a job, the ones at work first: ``name``; ``state``, which is running, finished, failed, stopped, set
        aside, or lost if the process is gone and no launcher has taken the job up yet; ``node``, the machine;
        ``note``, what the job said of its last step; ``seconds_left``, NaN if it is unknown; ``deaths``, how many
        processes in a row died of it without getting further; and ``reason``, why it failed.

    Raises:
        InputError: If there is no such folder, or no job was begun there.
    """
    folder = leases.folder_of(root)
    if not folder.is_dir():
        raise InputError(f"nothing was begun in {root}; name the folder that --out of reproduce or sweep names")
    rows = []
    for path in sorted(folder.glob(f"*/{leases.STATE}")):
        name = path.parent.name
        state = leases.read_state(root, name)
        lost = state.state == "running" and not leases.is_held(root, name)
        left = state.seconds_left if state.state == "running" and not lost else None
        shown = "lost" if lost else state.state
        rows.append((name, shown, state.node, state.note, left, state.deaths, state.reason))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seconds_left": float})
    order = ["running", "lost", "failed", "set aside", "stopped", "finished"]
    return table.sort_values("state", key=lambda column: column.map(order.index), kind="stable", ignore_index=True)
