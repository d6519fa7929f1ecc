"""The jobs that studies still lack, and the tables of those that are finished."""

from pathlib import Path

from iterconv.errors import InputError
from iterconv.studies.jobs import StudyJob
from iterconv.studies.study import Scale, Study, unique_jobs
from iterconv.studies.tables import Tables


def gather(studies: list[Study], scale: Scale, root: Path) -> Tables:
    """Read the tables of what is finished of some studies.

    Args:
        studies: The studies.
        scale: Their scale.
        root: The folder of all runs.

    Returns:
        The tables.

    Raises:
        InputError: If nothing is finished, or a file is damaged.
    """
    tables = Tables.collect(unique_jobs(studies, scale), root)
    if tables.empty:
        raise InputError(f"no run of scale {scale.name!r} is finished in {root}; run `iterconv reproduce` first")
    return tables


def find_unfinished(studies: list[Study], scale: Scale, root: Path) -> list[StudyJob]:
    """List the jobs that studies still lack."""
    return [job for job in unique_jobs(studies, scale) if not job.finished(root)]
