"""The commands ``sweep`` and ``status``."""

import threading
import time
from pathlib import Path

import pandas as pd

from iterconv.cli.console import console
from iterconv.cli.jobs import check_place, draw_states, list_jobs, run_jobs
from iterconv.errors import InputError
from iterconv.files import write_atomically, writing
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.jobs import TrainingRun
from iterconv.studies.stacks import for_stacks, group
from iterconv.studies.status import job_states
from iterconv.studies.sweep import read_sweep, varied_fields
from iterconv.training.config import RunConfig

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
    if engine.stack > 1:
        runs = [for_stacks(run, engine.stack) for run in runs]
    jobs = [TrainingRun(run) for run in runs]
    check_place(root)
    path = root / f"{file.stem}.csv"
    if path.resolve() == file.resolve():
        raise InputError(f"the table of results would replace {file}; choose another --out or rename the file")
    if dry_run:
        list_jobs(group(jobs), root, engine)
        return 0
    whole = run_jobs([job for job in group(jobs) if not job.finished(root)], root, engine, stop)
    finished = [job for job in jobs if job.finished(root)]
    console.doing("reading results")
    if not finished:
        raise InputError(f"no run of {file} succeeded; see the reasons above")
    table = pd.concat([job.tables(root)["runs"] for job in finished], ignore_index=True)
    varied = varied_fields([RunConfig(), *runs])
    for name in varied:
        if name not in table:  # fields that came later, which the studies' tables don't have
            table[name] = [getattr(job.config, name) for job in finished]
    with writing(path):
        write_atomically(path, table.to_csv(index=False).encode())
    shown = [*varied_fields(runs), "test_error", "convergence", "recurrence", "divergence"]
    console.print(table[shown].to_string(index=False, float_format="{:.3f}".format))
    console.print(f"{len(finished)} of {len(jobs)} runs in {path}")
    for row in table.to_dict("records"):
        console.emit(table=path, **{str(column): value for column, value in row.items()})
    return 0 if whole else 1


def status(root: Path, watch: bool, as_json: bool = False) -> int:
    """Show the state of all jobs below a folder.

    Args:
        root: The folder of runs.
        watch: True to show it anew every few seconds until no job is at work.
        as_json: True for one JSON object a job and line, and nothing else.

    Returns:
        The exit code.

    Raises:
        InputError: If nothing was begun in the folder.
    """
    while True:
        table = job_states(root)
        if as_json:
            for row in table.to_dict("records"):
                console.emit(**{str(column): value for column, value in row.items()})
        else:
            if watch and console.is_terminal:
                console.clear()
            console.print(", ".join(f"{count} {state}" for state, count in table.state.value_counts().items()))
            if (table.state != "finished").any():
                console.print(draw_states(table[table.state != "finished"]))
        if not watch or not (table.state == "running").any():
            return 0
        time.sleep(WATCH)
