"""Which runs decide a claim: the seeds that are added, look by look, where it is undecided."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.claims.claim import Claim, Kind
from iterconv.claims.claims import CLAIMS, OWN_CLAIMS
from iterconv.claims.compare import select
from iterconv.claims.correction import looks
from iterconv.claims.verdicts import Judgement
from iterconv.errors import InputError, shown
from iterconv.studies.jobs import StudyJob, TrainingRun
from iterconv.studies.more_seeds import extend, own_seeds
from iterconv.studies.prefix_runs import PrefixRun
from iterconv.studies.study import Scale, Study, unique_jobs
from iterconv.studies.toy_runs import ToyRun
from iterconv.studies.where import TOY, Where

Wanted = dict[Where, list[StudyJob]]


@dataclass(frozen=True)
class Budget:
    """How much may be trained to decide a claim."""

    seeds: int | None = None
    """The largest number of seeds; None for that of an earlier command, or `iterconv.studies.more_seeds.MOST`."""
    hours: float = math.inf
    """The core hours of one command."""

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read a budget as it is typed: 24 (seeds), or 10h.

        Raises:
            InputError: If it is something else.
        """
        found = re.fullmatch(r"([0-9]{1,4})|([0-9]{1,6}(?:\.[0-9]{1,6})?)h", text)
        if found and found[1] and 2 <= int(found[1]) <= 1000:
            return cls(seeds=int(found[1]))
        if found and found[2]:
            return cls(hours=float(found[2]))
        raise InputError(f"--budget {shown(text)[1:-1]} is no budget; give 2 to 1000 seeds, or hours, as 24 or 10h")


def find_claim(name: str) -> tuple[Claim, str | None]:
    """Find a claim, or a part of one, by name.

    Args:
        name: A number, or a number with the letter of a part, as 4 or 4a.

    Returns:
        The claim, and the part's letter, or None for the whole claim.

    Raises:
        InputError: If there is none of that name.
    """
    claims = (*CLAIMS, *OWN_CLAIMS)
    by_name: dict[str, tuple[Claim, str | None]] = {
        claim.label(part): (claim, part) for claim in claims for part in claim.parts
    }
    by_name |= {str(claim.number): (claim, None) for claim in claims}
    if name not in by_name:
        own = f"{OWN_CLAIMS[0].number} to {OWN_CLAIMS[-1].number}"
        raise InputError(
            f"there is no claim {shown(name)}; give a number from 1 to {len(CLAIMS)}, or {own}, or a part, as 4a"
        )
    return by_name[name]


def runs_for(claim: Claim, studies: Sequence[Study], scale: Scale, seeds: int) -> Wanted:
    """List the runs of the first seeds that a claim is about, setting by setting.

    Args:
        claim: The claim.
        studies: The studies whose settings are wanted.
        scale: Their scale.
        seeds: The number of seeds.

    Returns:
        The jobs of each setting.
    """
    longer = extend(studies, scale, dict.fromkeys(own_seeds(studies, scale), seeds))
    jobs = {job.name: job for job in unique_jobs(longer, scale)}
    own = [{**_label(job), "name": job.name} for job in jobs.values() if isinstance(job, _JOBS[claim.kind])]
    wanted: Wanted = {}
    for row in select(pd.DataFrame(own), **claim.about).to_dict("records"):
        if row["seed"] < seeds:
            wanted.setdefault(Where.of_row(row), []).append(jobs[row["name"]])
    return wanted


_JOBS: dict[Kind, type] = {"runs": TrainingRun, "toy": ToyRun, "prefix_nets": PrefixRun}
"""The jobs that make the networks of each kind."""


def _label(job: StudyJob) -> dict[str, Any]:
    """The columns by which a job's networks are selected: its setting, condition and seed."""
    if isinstance(job, TrainingRun):
        return job.config.to_dict()
    return job.label if isinstance(job, PrefixRun) else {**TOY.to_row(), "seed": getattr(job, "seed", 0)}


def next_jobs(judgement: Judgement, part: str | None, wanted: Wanted, most: int, root: Path) -> Wanted:
    """List the runs that the next look needs, in each setting where a claim is undecided.

    Args:
        judgement: What is known.
        part: The part that is to be decided; None for the whole claim.
        wanted: All runs up to the largest number of seeds, setting by setting.
        most: The largest number of seeds.
        root: The folder of all runs.

    Returns:
        The jobs that are not finished, of the settings that need any.
    """
    found: Wanted = {}
    for where, jobs in wanted.items():
        for number, (seeds, _) in enumerate(looks(most)):
            left = [job for job in jobs if _label(job)["seed"] < seeds and not job.finished(root)]
            if left:
                # Before the first look nothing is known, and a part without a cell is none that seeds would give one.
                if number == 0 or _open(judgement, part, where):
                    found[where] = left
                break
    return found


def _open(judgement: Judgement, part: str | None, where: Where) -> bool:
    """True if more seeds may decide something in a setting."""
    labels = {judgement.claim.label(own): own for own in judgement.claim.parts}
    rows = [row for row in judgement.rows if part in (None, labels[row.label])]
    cells = [cell for row in rows for cell in row.cells if cell.setting == where and cell.verdict == "undecided"]
    return any(f.verdict == "undecided" and not f.hopeless for cell in cells for f in cell.findings)


def affordable(needed: Wanted, hours: float, factor: float) -> Wanted:
    """Take the settings whose next look fits what is left of a budget, the cheapest first.

    Args:
        needed: The jobs of each setting.
        hours: The core hours that are left.
        factor: How many times slower a core here is than the reference machine's.

    Returns:
        The settings that fit, with their jobs.
    """
    taken: Wanted = {}
    for where, jobs in sorted(needed.items(), key=lambda item: core_hours(item[1], factor)):
        cost = core_hours(jobs, factor)
        if cost <= hours:
            taken[where], hours = jobs, hours - cost
    return taken


def core_hours(jobs: Sequence[StudyJob], factor: float) -> float:
    """Estimate the core hours of jobs."""
    return sum(job.seconds for job in jobs) * factor / 3600
