"""What ``reproduce`` and ``sweep`` share: they list jobs, bring them to their end, and show how far they are."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich.prompt import Confirm
from rich.table import Table

from iterconv.cli.console import bar, console
from iterconv.errors import InputError
from iterconv.files import require_folder
from iterconv.studies import leases
from iterconv.studies.cost import in_words, machine_factor, side_by_side
from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.executors.work import LOG
from iterconv.studies.jobs import StudyJob
from iterconv.studies.status import tabulate

MOST_ROWS = 20
"""The largest number of jobs that the live table shows, so that it fits a terminal."""


def check_place(root: Path) -> None:
    """Raise ``InputError`` if a file stands where the folder of jobs should be."""
    if root.exists() and not root.is_dir():
        raise InputError(f"--out {root} is not a folder; name one for the runs")


def list_jobs(jobs: Sequence[StudyJob], root: Path, options: EngineOptions) -> None:
    """Print every job with its cost, and the cost of all that are not finished; train nothing.

    Args:
        jobs: The jobs.
        root: The folder of all jobs.
        options: The place where they would be run.
    """
    console.doing("measuring this machine")
    factor = machine_factor()
    left = []
    for job in jobs:
        finished = job.finished(root)
        left += [] if finished else [job]
        here, gpu = in_words(job.seconds * factor), in_words(job.gpu_seconds)
        console.print(f"{'finished' if finished else 'to do':8}  about {here} here, {gpu} on a GPU  {job.name}")
        console.emit(run=job.name, finished=finished, seconds_here=job.seconds * factor, seconds_on_gpu=job.gpu_seconds)
    here = in_words(side_by_side([job.seconds * factor for job in left], options.parallel))
    gpu = in_words(sum(job.gpu_seconds for job in left))
    console.print(
        f"{len(left)} of {len(jobs)} runs to do; about {here} here with {options.parallel} worker(s) "
        f"(a core of this machine takes {factor:.1f} times the reference machine's time), "
        f"about {gpu} on one GPU, run after run (partly assumed: see studies/cost.py)"
    )


def run_jobs(jobs: Sequence[StudyJob], root: Path, options: EngineOptions, stop: threading.Event) -> bool:
    """Bring jobs to their end. A terminal shows those at work and a bar, and everybody a line for each that ended.

    Args:
        jobs: The jobs, in the order in which they are started.
        root: The folder of all jobs, which is made.
        options: The place where they are run.
        stop: An event that is set when the user interrupts.

    Returns:
        True if none failed.

    Raises:
        InputError: If the folder can't be written, an option does not fit, or no cluster answers.
        KeyboardInterrupt: If the user interrupts, once all state is saved.
    """
    require_folder(root)
    if not jobs:
        return True
    executor: Executor[StudyJob] = Executor(options.open(), fail_fast=options.fail_fast)
    # Epochs of big nets take longer, so the bar counts estimated seconds; then the time left is about right.
    seconds = {job.name: job.seconds for job in jobs}
    done, ended, started = 0.0, 0, time.monotonic()

    def show(job: StudyJob, outcome: str) -> None:
        nonlocal ended
        ended += 1
        console.print(f"{ended}/{len(jobs)} {job.name}: {outcome}, {time.monotonic() - started:.0f} s")

    def on_progress(job: StudyJob) -> None:
        nonlocal done
        done += seconds[job.name] / job.steps
        advance(round(done))

    def on_failed(job: StudyJob, reason: str) -> None:
        log = leases.folder_of(root, job.name) / LOG
        show(job, f"failed: {reason}" + (f" (see {log})" if log.exists() else ""))

    with bar("estimated seconds", round(sum(seconds.values())), above=lambda: _draw_running(executor)) as advance:
        executor.outlive = lambda: options.detach or (options.on == "slurm" and _ask_to_detach(advance.hide))
        failed = executor.run(
            jobs,
            root,
            on_progress=on_progress,
            on_finished=lambda job: show(job, job.outcome(root)),
            on_failed=on_failed,
            stop=stop,
        )
    if failed:
        console.print(f"{len(failed)} of {len(jobs)} runs failed, for the reasons above")
    return not failed


def _ask_to_detach(hide: Callable[[], None]) -> bool:
    """Ask whether jobs in a cluster's queue go on without this process; where nobody can answer, they stop."""
    if not (sys.stdin.isatty() and console.is_terminal):
        return False
    hide()
    try:
        return Confirm.ask("Let the jobs go on without this command?", console=console, default=False)
    except EOFError:
        return False


def draw_states(table: pd.DataFrame) -> Table:
    """Draw a table of `iterconv.studies.status` for a terminal."""
    drawn = Table(box=None, pad_edge=False)
    for name in ("job", "state", "node", "last step", "left", "why"):
        drawn.add_column(name, no_wrap=name != "why")
    for row in table.itertuples():
        left = in_words(row.seconds_left) if row.seconds_left == row.seconds_left else ""
        drawn.add_row(row.name, row.state, row.node, row.note, left, row.reason)
    return drawn


def _draw_running(executor: Executor[StudyJob]) -> Table:
    # A copy, as the display has a thread of its own.
    running = {name: state for name, state in dict(executor.states).items() if state.state == "running"}
    return draw_states(tabulate(running).head(MOST_ROWS))
