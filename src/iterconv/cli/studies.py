"""The commands ``reproduce`` and ``report``."""

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from iterconv.cli.console import console
from iterconv.cli.jobs import check_place, list_jobs, run_jobs
from iterconv.report import check_html
from iterconv.studies.catalogue import SCALES, STUDIES, find_scale, find_studies
from iterconv.studies.cost import in_words, side_by_side
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.jobs import StudyJob
from iterconv.studies.runs import find_unfinished, gather, load
from iterconv.studies.stacks import group
from iterconv.studies.study import Scale, Study, unique_jobs


def reproduce(names: tuple[str, ...], scale_name: str, root: Path, engine: EngineOptions, stop: threading.Event) -> int:
    """Train and measure the runs that studies still lack, and write the report.

    Args:
        names: The studies; all of them if empty.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of runs and reports.
        engine: The place where runs are trained.
        stop: An event that is set when the user interrupts.

    Returns:
        The exit code: 1 if runs failed, in which case the report is made from the others.

    Raises:
        InputError: If a name is unknown, the folder can't be written, the options don't fit, or no run succeeds.
        KeyboardInterrupt: If the user interrupts, once all state is saved.
    """
    engine.check()
    check_html()
    studies, scale = _find(names, scale_name, root, engine.stack)
    missing = find_unfinished(studies, scale, root)
    if missing:
        console.print(
            f"{len(missing)} of {len(unique_jobs(studies, scale))} runs to do, {engine.parallel} at a time; "
            f"about {_duration(missing, engine.parallel)} on cores like the reference machine's"
        )
    # The costliest first, so that no core waits long for the last run, unless the scale has an order of its own.
    jobs = [job for job in group(unique_jobs(studies, scale)) if not job.finished(root)]
    order = jobs if scale.in_order else sorted(jobs, key=lambda job: job.seconds, reverse=True)
    whole = run_jobs(order, root, engine, stop)
    write_report(names, scale_name, root, engine.stack)
    return 0 if whole else 1


def _find(names: tuple[str, ...], scale_name: str, root: Path, stack: int) -> tuple[list[Study], Scale]:
    check_place(root)
    scale = find_scale(scale_name)
    return in_stacks(find_studies(names, scale), stack), scale


def in_stacks(studies: Iterable[Study], stack: int) -> list[Study]:
    """Let studies train in stacks of this size."""
    return [replace(study, stack=stack) for study in studies]


def _duration(jobs: list[StudyJob], workers: int) -> str:
    """Estimate the time of jobs side by side on the reference machine, in words."""
    return in_words(side_by_side([job.seconds for job in jobs], workers))


def write_report(names: tuple[str, ...], scale_name: str, root: Path, stack: int = 1) -> int:
    """Draw the figures and write the report from the runs that are finished.

    Args:
        names: The studies; all of them if empty.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of runs and reports.
        stack: The size of the stacks in which the runs were trained.

    Returns:
        The exit code.

    Raises:
        InputError: If a name is unknown, nothing is finished, or a file is damaged or can't be written.
    """
    scale = find_scale(scale_name)
    studies = in_stacks(find_studies(names, scale), stack)
    console.doing("reading results")
    tables = gather(studies, scale, root)
    check_html()
    from iterconv.report.write import render  # late, as altair is optional

    console.doing("drawing figures")
    path, size = render(studies, scale, tables, root)
    console.emit(report=path, tables=path.parent / "tables", bytes=size)
    console.print(f"report in {path} ({size / 1e6:.1f} MB)")
    return 0


def report_on_folder(folder: Path, html: Path | None) -> int:
    """Write the report from a folder of tables or of runs.

    Args:
        folder: The folder that ``iterconv reproduce`` wrote.
        html: The file of the report; report.html in the folder by default.

    Returns:
        The exit code.

    Raises:
        InputError: If there are no tables, a file is damaged, or the report can't be written.
    """
    path = html or folder / "report.html"
    console.doing("reading results")
    tables = load(folder)
    check_html(path)
    from iterconv.report.write import render_folder  # late, as altair is optional

    console.doing("drawing")
    size = render_folder(tables, path)
    console.emit(report=path, bytes=size)
    console.print(f"report in {path} ({size / 1e6:.1f} MB)")
    return 0


def list_studies(root: Path, engine: EngineOptions) -> int:
    """Print studies and scales with the number of runs, how many are finished, and the estimated time.

    Args:
        root: The folder of runs.
        engine: The place where runs would be trained.

    Returns:
        The exit code.

    Raises:
        InputError: If there are no workers, or if --out is a file.
    """
    engine.check()
    check_place(root)
    for scale in SCALES.values():
        everything = in_stacks(STUDIES.values(), engine.stack)
        runs, left = unique_jobs(everything, scale), find_unfinished(everything, scale, root)
        console.print(f"{scale.name}: {scale.summary}")
        for study in everything:
            own, lacking = unique_jobs([study], scale), find_unfinished([study], scale, root)
            counts = f"{len(own):4} runs, {len(own) - len(lacking)} finished"
            console.emit(
                **{"scale": scale.name, "study": study.name, "runs": len(own), "finished": len(own) - len(lacking)},
                seconds_left=side_by_side([job.seconds for job in lacking], engine.parallel),
            )
            console.print(
                f"  {study.name:6} {counts}, about {_duration(lacking, engine.parallel)} to go: {study.title}"
            )
        console.print(
            f"  all    {len(runs):4} runs (shared ones once), {len(runs) - len(left)} finished, "
            f"about {_duration(left, engine.parallel)} to go with {engine.parallel} worker(s) on cores like the "
            "reference machine's"
        )
    return 0


def dry_run(names: tuple[str, ...], scale_name: str, root: Path, engine: EngineOptions) -> int:
    """Print every run that studies need with its cost, and train nothing.

    Args:
        names: The studies; all of them if empty.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of runs.
        engine: The place where runs would be trained.

    Returns:
        The exit code.

    Raises:
        InputError: If a name is unknown or the options don't fit.
    """
    engine.check()
    studies, scale = _find(names, scale_name, root, engine.stack)
    list_jobs(group(unique_jobs(studies, scale)), root, engine)
    return 0
