"""The command ``claims``, and ``reproduce --decide``."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iterconv.claims.claim import Claim
from iterconv.claims.deciding import Budget, Wanted, affordable, core_hours, find_claim, next_jobs, runs_for
from iterconv.claims.telling import describe_cell, summarise, to_records, verdict_table
from iterconv.claims.verdicts import Judgement, judge, judge_all, scale_of
from iterconv.cli.console import console
from iterconv.cli.jobs import check_place, list_jobs, run_jobs
from iterconv.cli.studies import in_stacks, write_report
from iterconv.errors import InputError, require
from iterconv.files import require_file, require_folder, writing
from iterconv.studies.catalogue import STUDIES, find_scale, find_studies
from iterconv.studies.cost import in_words, machine_factor
from iterconv.studies.executors.engines import EngineOptions
from iterconv.studies.jobs import StudyJob
from iterconv.studies.more_seeds import enter, own_seeds, planned
from iterconv.studies.runs import gather, load
from iterconv.studies.stacks import group
from iterconv.studies.study import Scale, Study
from iterconv.studies.tables import Tables


def print_claims(folder: Path | None, scale_name: str, root: Path, stack: int = 1, picture: Path | None = None) -> int:
    """Judge every claim and print the verdicts, setting by setting.

    Args:
        folder: A folder of tables or of runs; None for the finished runs of a scale.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of all runs.
        stack: The size of the stacks in which the runs were trained.
        picture: The file of a picture, if one is wanted.

    Returns:
        The exit code.

    Raises:
        InputError: If there are no tables or runs, a file is damaged, or the picture can't be written.
    """
    if picture:
        require_file(picture, "--picture")
    studies = in_stacks(STUDIES.values(), stack)
    console.doing("reading results")
    tables = load(folder) if folder else gather(studies, find_scale(scale_name), root)
    console.print(f"from {scale_of(tables)}")
    console.doing("judging claims")
    judgements = judge_all(tables)
    for record in to_records(judgements):
        console.emit(**record)
    for judgement in judgements:
        _show(judgement)
    if picture:
        console.doing("drawing")
        _draw(judgements, picture)
    return 0


def _show(judgement: Judgement) -> None:
    claim = judgement.claim
    source = f" (Sec. {claim.section})" if claim.section else ""
    console.print(f"\n{claim.number}. {claim.statement}{source}")
    for row in judgement.rows:
        console.print(f"  {row.label} {row.statement}: {summarise(row)}")
        for cell in row.cells:
            console.print(f"    {cell.verdict} in {cell.setting}")
            for line in describe_cell(cell).splitlines():
                console.print(f"      {line}")


def _draw(judgements: list[Judgement], path: Path) -> None:
    require("matplotlib", "drawing")
    from iterconv.figures.claims import draw_claims  # late, as matplotlib is slow to import
    from iterconv.figures.style import write

    try:
        with writing(path):
            write(draw_claims(verdict_table(judgements)), path)
    except ValueError as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError(f"can't draw to {path}: {problem}; use .png, .svg or .pdf") from None


def decide(
    name: str,
    studies: tuple[str, ...],
    budget_text: str,
    scale_name: str,
    root: Path,
    engine: EngineOptions,
    stop: threading.Event,
    *,
    dry: bool = False,
) -> int:
    """Add seeds, look by look, until a claim is decided in each setting or the budget is used up.

    Args:
        name: The claim, or a part of it, as 4 or 4a.
        studies: The studies in whose settings it is to be decided; by default all that the claim is about.
        budget_text: The budget, as 24 (seeds) or 10h.
        scale_name: The name of the scale: quick, small, desk or paper.
        root: The folder of runs and reports.
        engine: The place where runs are trained.
        stop: An event that is set when the user interrupts.
        dry: True to show the runs of the next look with their cost, and to train nothing.

    Returns:
        The exit code: 1 if runs failed.

    Raises:
        InputError: If a name or the budget is not understood, the options don't fit, or the folder can't be written.
        KeyboardInterrupt: If the user interrupts, once all state is saved.
    """
    engine.check()
    check_place(root)
    (claim, part), budget, scale = find_claim(name), Budget.parse(budget_text), find_scale(scale_name)
    own = in_stacks(_studies_of(claim, studies, scale), engine.stack)
    most = planned(root, claim.number, budget.seeds)
    wanted = runs_for(claim, own, scale, most)
    if dry:
        needed = next_jobs(_judge(claim, wanted, root), part, wanted, most, root)
        list_jobs(group([job for jobs in needed.values() for job in jobs]), root, engine)
        return 0
    require_folder(root)
    seeds = own_seeds(own, scale)
    enter(root, claim.number, {where: seeds[where] for where in wanted}, most)
    plan = Plan(claim, part, wanted, most, budget.hours, root)
    whole = _look_by_look(plan, engine, stop)
    write_report(tuple(study.name for study in own), scale_name, root, engine.stack)
    return 0 if whole else 1


def _studies_of(claim: Claim, names: Sequence[str], scale: Scale) -> list[Study]:
    """Find the studies that train what a claim is about at a scale."""
    for study in names:
        if study not in claim.studies:
            raise InputError(f"claim {claim.number} is not about {study}; use {', '.join(claim.studies)}")
    found = [study for study in find_studies(tuple(names) or claim.studies) if study.trains_at(scale)]
    if not found:
        raise InputError(
            f"nothing that claim {claim.number} is about is trained at the scale {scale.name!r}; choose another --scale"
        )
    return found


def _judge(claim: Claim, wanted: Wanted, root: Path) -> Judgement:
    return judge(claim, Tables.collect([job for jobs in wanted.values() for job in jobs], root))


@dataclass(frozen=True)
class Plan:
    """What is to be decided, and within which bounds."""

    claim: Claim
    part: str | None
    wanted: Wanted
    most: int
    hours: float
    root: Path


def _look_by_look(plan: Plan, engine: EngineOptions, stop: threading.Event) -> bool:
    """Train what each look needs, and look; returns False once runs fail."""
    left, factor = plan.hours, machine_factor() if math.isfinite(plan.hours) else 1.0
    while True:
        judgement = _judge(plan.claim, plan.wanted, plan.root)
        _show(judgement)
        needed = next_jobs(judgement, plan.part, plan.wanted, plan.most, plan.root)
        taken = affordable(needed, left, factor)
        if not taken:
            end = f"the next look does not fit the {left:.1f} h that are left; the same command goes on"
            console.print(f"\n{end if needed else f'all is decided, or undecided after {plan.most} seeds'}")
            return True
        jobs: list[StudyJob] = [job for own in taken.values() for job in own]
        left -= core_hours(jobs, factor)
        console.print(f"\n{len(jobs)} runs to the next look, about {in_words(core_hours(jobs, 3600))} of one core")
        if not run_jobs(group(jobs), plan.root, engine, stop):
            return False
