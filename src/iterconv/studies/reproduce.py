"""``iterconv reproduce``: train what is missing, then make tables, figures and the report."""

import threading
import time
from pathlib import Path

from iterconv.commands import bar, console, require_folder
from iterconv.studies.catalogue import SCALES, STUDIES, Scale, Study, estimated_seconds, find_scale, find_studies
from iterconv.studies.workers import run_all
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder


def reproduce(names: tuple[str, ...], scale_name: str, root: Path, workers: int, stop: threading.Event) -> int:
    """Bring studies to their end.

    Args:
        names: The studies; all of them if empty.
        scale_name: quick, small or paper.
        root: The folder of runs and reports.
        workers: Runs side by side.
        stop: Set when the user interrupts.

    Returns:
        The exit code: 1 if runs failed, in which case the report is made from the others.

    Raises:
        InputError: If a name is unknown, the folder can't be written, or the options don't fit.
        KeyboardInterrupt: When interrupted, once all state is saved.
    """
    from iterconv.errors import InputError

    studies, scale = find_studies(names), find_scale(scale_name)
    if workers < 1:
        raise InputError(f"workers={workers} is too few; use 1 or more")
    require_folder(root)
    missing = unfinished(studies, scale, root)
    if missing:
        console.print(
            f"{len(missing)} of {len(unique_runs(studies, scale))} runs to do, {workers} at a time; "
            f"about {duration(missing, workers)} on two cores like the reference machine's"
        )
    failed = _train(missing, root, workers, stop) if missing else {}
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}")
    write_report(names, scale_name, root)
    return 1 if failed else 0


def _train(missing: list[RunConfig], root: Path, workers: int, stop: threading.Event) -> dict[str, str]:
    # Epochs of big nets take longer: the bar counts estimated seconds, so that the time left is about right.
    share = {run.name: estimated_seconds(run) / (run.resolved().epochs or 1) for run in missing}
    total = sum(estimated_seconds(run) for run in missing)
    done, finished, started = 0.0, 0, time.monotonic()
    with bar("estimated seconds", round(total)) as advance:

        def on_epoch(run: RunConfig) -> None:
            nonlocal done
            done += share[run.name]
            advance(round(done))

        def on_finished(run: RunConfig) -> None:
            nonlocal finished
            finished += 1
            result = RunFolder(root / run.name, run).result()
            console.print(
                f"{finished}/{len(missing)} {run.name}: test error {result['test_error']:.2%}, "
                f"{time.monotonic() - started:.0f} s"
            )

        # The costliest first, so that no core waits long for the last run.
        order = sorted(missing, key=estimated_seconds, reverse=True)
        return run_all(order, root, workers=workers, on_epoch=on_epoch, on_finished=on_finished, stop=stop).failed


def write_report(names: tuple[str, ...], scale_name: str, root: Path) -> int:
    """Draw the figures and write the report from the runs that are finished.

    Args:
        names: The studies; all of them if empty.
        scale_name: quick, small or paper.
        root: The folder of runs and reports.

    Returns:
        The exit code.

    Raises:
        InputError: If a name is unknown, nothing is finished, or a file is damaged or can't be written.
    """
    from iterconv.report import render

    studies, scale = find_studies(names), find_scale(scale_name)
    path = render(studies, scale, root)
    console.print(f"report in {path}")
    return 0


def unique_runs(studies: list[Study], scale: Scale) -> list[RunConfig]:
    """The runs that studies need; what several need, once."""
    return list({run.hash: run for study in studies for run in study.runs(scale)}.values())


def unfinished(studies: list[Study], scale: Scale, root: Path) -> list[RunConfig]:
    """The runs that studies still lack."""
    return [run for run in unique_runs(studies, scale) if not RunFolder(root / run.name, run).finished]


def duration(runs: list[RunConfig], workers: int) -> str:
    """The estimated time of runs side by side, in words."""
    seconds = sum(estimated_seconds(run) for run in runs) / workers
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def list_studies(root: Path, workers: int) -> int:
    """Print studies and scales with the number of runs, how many are finished, and the estimated time.

    Args:
        root: The folder of runs.
        workers: Runs side by side.

    Returns:
        The exit code.
    """
    for scale in SCALES.values():
        everything = list(STUDIES.values())
        runs = unique_runs(everything, scale)
        left = unfinished(everything, scale, root)
        console.print(f"{scale.name}: {scale.summary}")
        for study in everything:
            own, lacking = study.runs(scale), unfinished([study], scale, root)
            console.print(
                f"  {study.name:6} {len(own):4} runs, {len(own) - len(lacking)} finished, "
                f"about {duration(lacking, workers)} to go: {study.title}"
            )
        console.print(
            f"  all    {len(runs):4} runs (shared ones once), {len(runs) - len(left)} finished, "
            f"about {duration(left, workers)} to go with {workers} worker(s) on CPU cores like the reference machine's"
        )
    return 0
