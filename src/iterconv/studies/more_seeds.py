"""Seeds beyond those of the studies, which are added because of what was seen, and the record of that.

The file ``looks.csv`` beside the runs has a row for each claim and setting to which seeds are added. Verdicts depend on
it, as intervals that are looked at repeatedly have to be wider.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.errors import InputError
from iterconv.files import writing
from iterconv.studies.study import Scale, Setting, Study
from iterconv.studies.tables import SCHEMAS
from iterconv.studies.where import TOY, Where

LOOKS = SCHEMAS["looks"]
MOST = 24
"""The largest number of seeds, if none is asked for."""


def extend(studies: Sequence[Study], scale: Scale, seeds: dict[Where, int]) -> list[Study]:
    """Let studies have more seeds at a scale.

    Args:
        studies: The studies.
        scale: The scale.
        seeds: The numbers of seeds, from 0, that there are to be; settings that are not among them are left alone.

    Returns:
        The studies.
    """

    def more(setting: Setting) -> Setting:
        return replace(setting, seeds=(*dict.fromkeys((*setting.seeds, *range(seeds.get(Where.of(setting.base), 0)))),))

    longer = []
    for study in studies:
        if study.settings_at(scale):
            study = replace(study, settings={scale.name: tuple(more(setting) for setting in study.settings_at(scale))})
        if scale.name in study.toy_seeds:
            study = replace(study, toy_seeds={scale.name: max(study.toy_seeds[scale.name], seeds.get(TOY, 0))})
        if scale.name in study.jobs:
            others = study.jobs[scale.name]
            most = max(others.seeds, seeds.get(others.where, 0))
            study = replace(study, jobs={scale.name: replace(others, seeds=most)})
        longer.append(study)
    return longer


def own_seeds(studies: Sequence[Study], scale: Scale) -> dict[Where, int]:
    """Count the seeds that studies have by themselves, setting by setting."""
    counts: dict[Where, int] = {}
    for study in studies:
        own = [(Where.of(setting.base), len(setting.seeds)) for setting in study.settings_at(scale)]
        own += [(TOY, study.toy_seeds[scale.name])] if scale.name in study.toy_seeds else []
        own += [(study.jobs[scale.name].where, study.jobs[scale.name].seeds)] if scale.name in study.jobs else []
        for where, count in own:
            counts[where] = max(count, counts.get(where, 0))
    return counts


def most_seeds(looks: pd.DataFrame) -> dict[Where, int]:
    """Find the largest number of seeds of each setting that is in a table of looks."""
    most: dict[Where, int] = {}
    for row in looks.to_dict("records"):
        where = Where.of_row(row)
        most[where] = max(int(row["most"]), most.get(where, 0))
    return most


def planned(root: Path, claim: int | str, most: int | None) -> int:
    """Return the largest number of seeds for a claim, which must not change once it was looked at.

    Args:
        root: The folder of all runs.
        claim: The claim's number.
        most: The number that is asked for; None for any.

    Returns:
        The number that the record has, or else the one that is asked for, or else `MOST`.

    Raises:
        InputError: If the record has another number than the one that is asked for, or is damaged.
    """
    before = [int(row["most"]) for row in LOOKS.read(root).to_dict("records") if row["claim"] == str(claim)]
    if before and most not in (None, before[0]):
        raise InputError(
            f"claim {claim} was begun with up to {before[0]} seeds, for which its intervals hold; "
            f"give --budget {before[0]} or a number of hours"
        )
    return before[0] if before else most or MOST


def enter(root: Path, claim: int | str, seeds: dict[Where, int], most: int) -> None:
    """Enter a claim into the record, for each setting to which seeds are going to be added because of it.

    Args:
        root: The folder of all runs.
        claim: The claim's number.
        seeds: The settings, with the numbers of seeds that their studies have by themselves.
        most: The largest number of seeds, see `planned`.

    Raises:
        InputError: If the file is damaged or can't be written.
    """
    from filelock import FileLock

    path = root / LOOKS.file
    with writing(path), FileLock(root / f".{LOOKS.file}.lock"):
        table = LOOKS.read(root)
        known = {(row["claim"], Where.of_row(row)) for row in table.to_dict("records")}
        rows: list[dict[str, Any]] = [
            {"claim": str(claim), **where.to_row(), "seeds": count, "most": most}
            for where, count in seeds.items()
            if (str(claim), where) not in known
        ]
        if rows:
            LOOKS.write(root, pd.concat([table, pd.DataFrame(rows)], ignore_index=True))
