"""The state of all jobs below a folder, for whoever watches: also from another machine, and without a launcher."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

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
        The table of ``tabulate``; a job whose process is gone, and that no launcher has taken up yet, is lost.

    Raises:
        InputError: If there is no such folder, or no job was begun there.
    """
    states = {}
    for path in sorted(leases.folder_of(root).glob(f"*/{leases.STATE}")):
        name = path.parent.name
        state = leases.read_state(root, name)
        lost = state.state == "running" and not leases.is_held(root, name)
        states[name] = replace(state, state="lost") if lost else state
    if not states:
        raise InputError(f"nothing was begun in {root}; name the folder that --out of reproduce or sweep names")
    return tabulate(states)


def tabulate(states: Mapping[str, leases.JobState]) -> pd.DataFrame:
    """Make a table of the states of jobs.

    Args:
        states: The states, by the names of the jobs.

    Returns:
        One row a job, the ones at work first: ``name``; ``state``; ``node``, the machine; ``note``, what the job said
        of its last step; ``seconds_left``, NaN if it is unknown; ``deaths``, how many processes in a row
        died of it without getting further; and ``reason``, why it failed.
    """
    rows = [
        (name, state.state, state.node, state.note, state.seconds_left, state.deaths, state.reason)
        for name, state in states.items()
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seconds_left": float})
    order = get_args(leases.State)
    return table.sort_values("state", key=lambda column: column.map(order.index), kind="stable", ignore_index=True)
