"""The commands ``reproduce``, ``report`` and ``claims``."""

import threading
import time
from pathlib import Path

from iterconv.claims.verdicts import describe, judge_all, scale_of
from iterconv.cli.console import bar, console
from iterconv.errors import InputError, OptionError
from iterconv.files import require_folder
from iterconv.report import render
from iterconv.studies.catalogue import SCALES, STUDIES, find_scale, find_studies
from iterconv.studies.cost import in_words, machine_factor
from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.jobs import StudyJob
from iterconv.studies.runs import find_unfinished, gather
from iterconv.studies.study import Scale, Study, unique_jobs
from iterconv.studies.tables import Tables


def reproduce(names: tuple[str, ...], scale_name: str, root: Path, workers: int, stop: threading.Event) -> int:
    """Train and measure the runs that studies still lack, and write the report.

    Args:
        names: The studies; all of them if empty.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of runs and reports.
        workers: The number of runs side by side.
        stop: An event that is set when the user interrupts.

    Returns:
        The exit code: 1 if runs failed, in which case the report is made from the others.

    Raises:
        InputError: If a name is unknown, the folder can't be written, the options don't fit, or no run succeeds.
        KeyboardInterrupt: If the user interrupts, once all state is saved.
    """
    studies, scale = _find(names, scale_name, root, workers)
    require_folder(root)
    missing = find_unfinished(studies, scale, root)
    if missing:
        console.print(
            f"{len(missing)} of {len(unique_jobs(studies, scale))} runs to do, {workers} at a time; "
            f"about {_duration(missing, workers)} on cores like the reference machine's"
        )
    # The costliest first, so that no core waits long for the last run, unless the scale has an order of its own.
    order = missing if scale.in_order else sorted(missing, key=lambda job: job.seconds, reverse=True)
    failed = _run(order, root, Executor(HereEngine(workers)), stop) if missing else {}
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}")
    write_report(names, scale_name, root)
    return 1 if failed else 0


def _find(names: tuple[str, ...], scale_name: str, root: Path, workers: int) -> tuple[list[Study], Scale]:
    _check_place(root, workers)
    scale = find_scale(scale_name)
    return find_studies(names, scale), scale


def _check_place(root: Path, workers: int) -> None:
    if workers < 1:
        raise OptionError("workers", workers, "is too few; use 1 or more")
    if root.exists() and not root.is_dir():
        raise InputError(f"--out {root} is not a folder; name one for the runs")


def _run(jobs: list[StudyJob], root: Path, executor: Executor, stop: threading.Event) -> dict[str, str]:
    """Run jobs with a progress bar and a line for each finished one; returns the reasons why others failed."""
    # Epochs of big nets take longer, so the bar counts estimated seconds; then the time left is about right.
    seconds = {job.name: job.seconds for job in jobs}
    done, finished, started = 0.0, 0, time.monotonic()
    with bar("estimated seconds", round(sum(seconds.values()))) as advance:

        def on_progress(job: StudyJob) -> None:
            nonlocal done
            done += seconds[job.name] / job.steps
            advance(round(done))

        def on_finished(job: StudyJob) -> None:
            nonlocal finished
            finished += 1
            console.print(f"{finished}/{len(jobs)} {job.name}: {job.outcome(root)}, {time.monotonic() - started:.0f} s")

        return executor.run(jobs, root, on_progress=on_progress, on_finished=on_finished, stop=stop)


def _duration(jobs: list[StudyJob], workers: int) -> str:
    """Estimate the time of jobs side by side on the reference machine, in words."""
    return in_words(sum(job.seconds for job in jobs) / workers)


def write_report(names: tuple[str, ...], scale_name: str, root: Path) -> int:
    """Draw the figures and write the report from the runs that are finished.

    Args:
        names: The studies; all of them if empty.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of runs and reports.

    Returns:
        The exit code.

    Raises:
        InputError: If a name is unknown, nothing is finished, or a file is damaged or can't be written.
    """
    scale = find_scale(scale_name)
    studies = find_studies(names, scale)
    path = render(studies, scale, gather(studies, scale, root), root)
    console.print(f"report in {path}")
    return 0


def list_studies(root: Path, workers: int) -> int:
    """Print studies and scales with the number of runs, how many are finished, and the estimated time.

    Args:
        root: The folder of runs.
        workers: The number of runs side by side.

    Returns:
        The exit code.

    Raises:
        InputError: If there are no workers, or if --out is a file.
    """
    _check_place(root, workers)
    for scale in SCALES.values():
        everything = list(STUDIES.values())
        runs, left = unique_jobs(everything, scale), find_unfinished(everything, scale, root)
        console.print(f"{scale.name}: {scale.summary}")
        for study in everything:
            own, lacking = unique_jobs([study], scale), find_unfinished([study], scale, root)
            counts = f"{len(own):4} runs, {len(own) - len(lacking)} finished"
            console.print(f"  {study.name:6} {counts}, about {_duration(lacking, workers)} to go: {study.title}")
        console.print(
            f"  all    {len(runs):4} runs (shared ones once), {len(runs) - len(left)} finished, "
            f"about {_duration(left, workers)} to go with {workers} worker(s) on cores like the reference machine's"
        )
    return 0


def dry_run(names: tuple[str, ...], scale_name: str, root: Path, workers: int) -> int:
    """Print every run that studies need with its cost, and train nothing.

    Args:
        names: The studies; all of them if empty.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of runs.
        workers: The number of runs side by side.

    Returns:
        The exit code.

    Raises:
        InputError: If a name is unknown or the options don't fit.
    """
    studies, scale = _find(names, scale_name, root, workers)
    factor = machine_factor()
    jobs, left = unique_jobs(studies, scale), find_unfinished(studies, scale, root)
    names_left = {job.name for job in left}
    for job in jobs:
        state = "to do" if job.name in names_left else "finished"
        here, gpu = in_words(job.seconds * factor), in_words(job.gpu_seconds)
        console.print(f"{state:8}  about {here} here, {gpu} on a GPU  {job.name}")
    here = in_words(sum(job.seconds for job in left) * factor / workers)
    gpu = in_words(sum(job.gpu_seconds for job in left))
    console.print(
        f"{len(left)} of {len(jobs)} runs to do; about {here} here with {workers} worker(s) "
        f"(a core of this machine takes {factor:.1f} times the reference machine's time), "
        f"about {gpu} on one GPU, run after run (assumed, not measured: see studies/cost.py)"
    )
    return 0


def print_claims(folder: Path | None, scale_name: str, root: Path) -> int:
    """Judge every claim and print the findings.

    Args:
        folder: A folder of tables that ``iterconv reproduce`` wrote; None for the finished runs of a scale.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of all runs.

    Returns:
        The exit code.

    Raises:
        InputError: If there are no tables or runs, or a file is damaged.
    """
    tables = Tables.load(folder) if folder else gather(list(STUDIES.values()), find_scale(scale_name), root)
    console.print(f"from {scale_of(tables)}")
    for judgement in judge_all(tables):
        claim = judgement.claim
        console.print(f"\n{claim.number}. {judgement.verdict.upper()}: {claim.statement} (Sec. {claim.section})")
        for finding in judgement.findings:
            console.print(f"   {finding.verdict}: {describe(finding)}")
    return 0
