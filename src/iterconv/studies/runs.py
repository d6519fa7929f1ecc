"""Which runs studies still lack, and the tables of those that are finished."""

from pathlib import Path

from iterconv.errors import InputError
from iterconv.studies.catalogue import (
    Run,
    Scale,
    Study,
    unique_runs,
)
from iterconv.studies.tables import Tables
from iterconv.studies.toy import ToyRun
from iterconv.training.folder import RunFolder


def gather(studies: list[Study], scale: Scale, root: Path) -> Tables:
    """The tables of what is finished of some studies.

    Args:
        studies: The studies.
        scale: Their scale.
        root: The folder of all runs.

    Returns:
        The tables.

    Raises:
        InputError: If nothing is finished, or a file is damaged.
    """
    tables = Tables.collect(unique_runs(studies, scale), root)
    if tables.empty:
        raise InputError(f"no run of scale {scale.name!r} is finished in {root}; run `iterconv reproduce` first")
    return tables


def unfinished(studies: list[Study], scale: Scale, root: Path) -> list[Run]:
    """The runs that studies still lack."""
    return [run for run in unique_runs(studies, scale) if not _finished(run, root)]


def _finished(run: Run, root: Path) -> bool:
    return run.path(root).exists() if isinstance(run, ToyRun) else RunFolder(root / run.name, run).finished
