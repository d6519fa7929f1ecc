"""The jobs that studies still lack, and the tables of those that are finished."""

from pathlib import Path

from iterconv.errors import InputError
from iterconv.studies.jobs import StudyJob, TrainingRun
from iterconv.studies.more_seeds import LOOKS, extend, most_seeds
from iterconv.studies.prefix_runs import find_prefix_runs
from iterconv.studies.study import Scale, Study, unique_jobs
from iterconv.studies.tables import SCHEMAS, Tables
from iterconv.studies.toy_runs import KINDS, ToyRun
from iterconv.training.folder import RunFolder


def gather(studies: list[Study], scale: Scale, root: Path) -> Tables:
    """Read the tables of what is finished of some studies, with the seeds that were added to them.

    Args:
        studies: The studies.
        scale: Their scale.
        root: The folder of all runs.

    Returns:
        The tables.

    Raises:
        InputError: If nothing is finished, or a file is damaged.
    """
    longer = extend(studies, scale, most_seeds(LOOKS.read(root)))
    tables = Tables.collect(unique_jobs(longer, scale), root)
    if tables.empty:
        raise InputError(f"no run of scale {scale.name!r} is finished in {root}; run `iterconv reproduce` first")
    return tables


def find_unfinished(studies: list[Study], scale: Scale, root: Path) -> list[StudyJob]:
    """List the jobs that studies still lack."""
    return [job for job in unique_jobs(studies, scale) if not job.finished(root)]


def load(folder: Path) -> Tables:
    """Read results: the tables that a folder holds, or else all finished runs in it.

    Args:
        folder: A folder that ``Tables.save`` wrote, or a folder of runs.

    Returns:
        The tables.

    Raises:
        InputError: If it holds neither, or a file is damaged.
    """
    jobs: list[StudyJob] = []
    if not any((folder / schema.file).exists() for name, schema in SCHEMAS.items() if name != "looks"):
        nets = find_prefix_runs(folder)
        others = {net.name for net in nets}
        paths = sorted(path.parent for path in folder.glob("*/config.json") if path.parent.name not in others)
        jobs += [TrainingRun(RunFolder.existing(path).config) for path in paths]
        jobs += nets
        toys = sorted(path.stem.split("-seed") for path in (folder / "toy").glob("*-seed*.parquet"))
        jobs += [ToyRun(kind, int(seed)) for kind, seed in toys if kind in KINDS and seed.isdigit()]
    tables = Tables.collect(jobs, folder)
    return Tables.load(folder) if tables.empty else tables
