"""The commands ``sweep`` and ``status``."""

import json
import threading
import time
from pathlib import Path

import pandas as pd
from rich.table import Table

from iterconv.cli.console import console
from iterconv.cli.studies import run_jobs
from iterconv.errors import InputError
from iterconv.files import require_folder, write_atomically, writing
from iterconv.studies.cost import in_words, machine_factor
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.jobs import TrainingRun
from iterconv.studies.status import job_states
from iterconv.studies.sweep import read_sweep, varied_fields

WATCH = 2.0
"""Seconds between two looks of ``status --watch``."""


def sweep(file: Path, root: Path, engine: EngineOptions, dry_run: bool, stop: threading.Event) -> int:
    """Train and measure the runs that a file describes, and write a table of their results.

    Args:
        file: The file, as for `iterconv.studies.sweep.read_sweep`.
        root: The folder of runs.
        engine: The place where runs are trained.
        dry_run: True to list the runs and their cost only.
        stop: An event that is set when the user interrupts.

    Returns:
        The exit code: 1 if runs failed; the table then holds the others.

    Raises:
        InputError: If the file is not understood, the folder can't be written, an option does not fit, or no run
            succeeds.
        KeyboardInterrupt: If the user interrupts, once all state is saved.
    """
    engine.check()
    runs = read_sweep(file)
    jobs = [TrainingRun(run) for run in runs]
    if root.exists() and not root.is_dir():
        raise InputError(f"--out {root} is not a folder; name one for the runs")
    missing = [job for job in jobs if not job.finished(root)]
    if dry_run:
        factor = machine_factor()
        for job in jobs:
            state = "finished" if job.finished(root) else "to do"
            console.print(f"{state:8}  about {in_words(job.seconds * factor)} here  {job.name}")
        console.print(f"{len(missing)} of {len(jobs)} runs to do")
        return 0
    require_folder(root)
    failed = run_jobs(missing, root, engine, stop) if missing else {}
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}")
    finished = [job for job in jobs if job.finished(root)]
    if not finished:
        raise InputError(f"no run of {file} succeeded; see the reasons above")
    table = pd.concat([job.tables(root)["runs"] for job in finished], ignore_index=True)
    path = root / f"{file.stem}.csv"
    with writing(path):
        write_atomically(path, table.to_csv(index=False).encode())
    shown = [*varied_fields(runs), "test_error", "convergence", "recurrence", "divergence"]
    console.print(table[shown].to_string(index=False, float_format="{:.3f}".format))
    console.print(f"{len(finished)} of {len(jobs)} runs in {path}")
    return 1 if failed else 0


def status(root: Path, as_json: bool, watch: bool) -> int:
    """Show the state of all jobs below a folder.

    Args:
        root: The folder of runs.
        as_json: True for one JSON object a job and line.
        watch: True to show it anew every few seconds until no job is at work.

    Returns:
        The exit code.

    Raises:
        InputError: If nothing was begun in the folder.
    """
    while True:
        table = job_states(root)
        if as_json:
            for row in table.to_dict("records"):
                whole = {key: None if value != value else value for key, value in row.items()}
                console.print(json.dumps(whole))
        else:
            if watch and console.is_terminal:
                console.clear()
            console.print(", ".join(f"{count} {state}" for state, count in table.state.value_counts().items()))
            if (table.state != "finished").any():
                console.print(_draw(table[table.state != "finished"]))
        if not watch or not (table.state == "running").any():
            return 0
        time.sleep(WATCH)


def _draw(table: pd.DataFrame) -> Table:
    drawn = Table(box=None, pad_edge=False)
    for name in ("job", "state", "node", "last step", "left", "why"):
        drawn.add_column(name, no_wrap=name != "why")
    for row in table.itertuples():
        left = in_words(row.seconds_left) if row.seconds_left == row.seconds_left else ""
        drawn.add_row(row.name, row.state, row.node, row.note, left, row.reason)
    return drawn
