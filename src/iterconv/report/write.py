"""Reports on studies as files: the page, and on finished runs also the figures and tables beside it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from altair.utils.schemapi import debug_mode

from iterconv.claims.telling import verdict_table
from iterconv.claims.verdicts import judge_all, scale_of
from iterconv.files import write_atomically, writing
from iterconv.report.page import write_page
from iterconv.report.pictures import save_pictures
from iterconv.report.study import Progress, make_study_page
from iterconv.studies.catalogue import SCALES, STUDIES
from iterconv.studies.study import Scale, Study, command_of, unique_jobs
from iterconv.studies.tables import Tables, machine

_PAPER = (
    "The studies of “Iterative convergent computation is not a useful inductive bias for ResNets” (Lippl, Peters, "
    "Kriegeskorte), redone with iterconv. "
)
_SMALLER = (
    " The paper trains larger networks for longer, so numbers here are to be read as trends, not as the paper's values."
)


def render(studies: Sequence[Study], scale: Scale, tables: Tables, root: Path) -> tuple[Path, int]:
    """Write the report on the finished runs of studies, with figures and tables as files beside it.

    Args:
        studies: The studies.
        scale: Their scale.
        tables: The tables of the studies' finished runs.
        root: The folder of all runs; the report goes to ``root/report-<scale>/``.

    Returns:
        The HTML file and its size in bytes.

    Raises:
        InputError: If a file can't be written.
    """
    folder = root / f"report-{scale.name}"
    with writing(folder):
        tables.save(folder / "tables", {"command": command_of(studies, scale), "scale": scale_of(tables)})
        claims = verdict_table(judge_all(tables)).to_csv(index=False)
        write_atomically(folder / "tables" / "claims.csv", claims.encode())
        for study in studies:
            save_pictures(study, tables, [job.name for job in unique_jobs([study], scale)], folder)
    path = folder / "index.html"
    return path, _write(studies, scale, tables, path, f"{_PAPER}Scale {scale.name}: {scale.summary}.{_SMALLER}")


def render_folder(tables: Tables, path: Path) -> int:
    """Write the page about tables, whichever studies and version they are of.

    Args:
        tables: The tables.
        path: The HTML file.

    Returns:
        Its size in bytes.

    Raises:
        InputError: If the file can't be written.
    """
    scale = _find_scale(tables)
    studies = [study for study in STUDIES.values() if _count(study, scale, tables)]
    return _write(studies, scale, tables, path, _PAPER.strip() + _SMALLER)


def _write(studies: Sequence[Study], scale: Scale, tables: Tables, path: Path, lead: str) -> int:
    members: dict[str, list[str]] = {}
    for study in studies:
        for run in study.runs(scale):
            members.setdefault(run.name, []).append(study.name)
    progress = [
        Progress(
            **{"study": study.name, "title": study.title, "scale": scale.name},
            finished=_count(study, scale, tables),
            wanted=len(unique_jobs([study], scale)),
            command=command_of([study], scale),
        )
        for study in studies
    ]
    title = "Do ResNets compute iteratively and convergently?"
    with debug_mode(False):  # the tests check the charts, which takes seconds
        return write_page(make_study_page(title, lead, tables, members, progress, _state_facts(tables)), path)


def _find_scale(tables: Tables) -> Scale:
    """Find the scale of which the most runs are there."""
    names = set(tables.runs["name"]) if len(tables.runs) else set()

    def shared(scale: Scale) -> int:
        return len(names & {run.name for study in STUDIES.values() for run in study.runs(scale)})

    return max(SCALES.values(), key=shared)


def _count(study: Study, scale: Scale, tables: Tables) -> int:
    """Count the networks of a study that are there."""
    names = set(tables.runs["name"]) if len(tables.runs) else set()
    toys = set(zip(tables.toy["kind"], tables.toy["seed"], strict=True)) if len(tables.toy) else set()
    trained = sum(run.name in names for run in study.runs(scale))
    nets = set(tables.prefix_nets["name"]) if len(tables.prefix_nets) else set()
    trained += sum(job.name in nets for job in study.others(scale))
    return trained + sum((toy.kind, toy.seed) in toys for toy in study.toys(scale))


def _state_facts(tables: Tables) -> dict[str, str]:
    here, runs = machine(), tables.runs
    facts = {
        "Report made on": f"{here['processor']}, {here['cores']} cores, {here['system']}, Python {here['python']}",
    }
    if len(runs):
        facts["Runs made on"] = f"{_list(runs['device'])}; torch {_list(runs['torch'])}"
        facts["Test images"] = _list(runs["test_examples"])
    return facts


def _list(values: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))
