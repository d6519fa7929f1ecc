"""``spans``: maps of what it costs to drop, repeat or swap every span of blocks of a stage."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import nn

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import InputError, check_choice
from iterconv.files import write_atomically, writing
from iterconv.measuring.bootstrap import check_bootstrap, interval, resampled_means
from iterconv.measuring.compare import compare
from iterconv.measuring.drawn import Drawn
from iterconv.options import Against, SpanKind
from iterconv.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: dict[SpanKind, Callable[[paths.Path, int, int], paths.Path]] = {
    "drop": lambda full, start, end: full[:start] + full[end:],
    "repeat": lambda full, start, end: full[:end] + full[start:end] + full[end:],
    "swap": lambda full, start, end: (
        *full[:start],
        *full[end - 1 : end],
        *full[start + 1 : end - 1],
        full[start],
        *full[end:],
    ),
}
"""The kinds of maps: functions from the ordinary path and a span, from ``start`` to before ``end``, to another path."""


@dataclass(frozen=True, eq=False)
class SpanMap(Drawn):
    """The error of a model with one span of blocks dropped, repeated or swapped, for every span."""

    table: pd.DataFrame
    """One row for each stage, ``kind`` and span, which is the blocks from ``start`` to before ``end`` (from 0):
    ``error``, ``change`` (less the error of the ordinary pass) with ``low`` and ``high``, and ``n``, the rows."""
    intact_error: float
    """The error of the ordinary pass, in [0, 1]."""
    options: dict[str, Any]

    def draw(self) -> "Figure":
        """Draw a heat map for each stage and kind; the colour of no change is the error of the ordinary pass."""
        from iterconv.figures.spans import draw_spans  # late, as matplotlib is optional

        return draw_spans(self.table, self.intact_error)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a .csv file.

        Args:
            path: The file, which appears whole or not at all.

        Raises:
            InputError: If the name does not end in .csv, or the file can't be written.
        """
        path = Path(path)
        if path.suffix != ".csv":
            raise InputError(f"{path} does not name a table; let it end in .csv")
        with writing(path):
            write_atomically(path, self.table.to_csv(index=False).encode())


def spans(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    kinds: Sequence[SpanKind] = ("drop", "repeat", "swap"),
    against: Against = "labels",
    task: Task | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> SpanMap:
    """Measure the error with every span of every stage dropped, executed twice, or with its two ends swapped.

    Choice: to swap a span is to exchange its first and its last block, as Veit et al. 2016 (Sec. 4.3) exchange two
    blocks; so a span of one block has no swap.

    Args:
        model: A model as for ``iterconv.measure``; it is left as it was.
        batches: The batches as for ``iterconv.measure``.
        kinds: The maps that are wanted, any of ``"drop"``, ``"repeat"`` and ``"swap"``.
        against: The same as for ``iterconv.measure``.
        task: The same as for ``iterconv.measure``.
        resamples: The number of bootstrap resamples for the intervals of the changes, which are paired: each resample
            takes the same examples with and without the perturbation. 0 for no intervals.
        confidence: The confidence of the intervals.
        seed: The seed of the bootstrap.
        progress: A function that is called after each batch with the number of rows so far and None.

    Returns:
        The maps.

    Raises:
        InputError: If an option is out of range, or as for ``iterconv.measure``.
    """
    for kind in kinds:
        check_choice("kinds", kind, SpanKind)
    check_choice("against", against, Against)
    resamples, confidence, seed = check_bootstrap(resamples, confidence, seed)
    staged, batches = as_staged(model, batches, task)
    full = paths.full_route(staged.stages)
    keys = [
        (stage, kind, start, end)
        for stage, path in enumerate(full)
        for kind in dict.fromkeys(kinds)
        for start, end in combinations(range(len(path) + 1), 2)
        if kind != "swap" or end - start > 1
    ]
    if not keys:
        raise InputError("there is no span to map; ask for another of the kinds drop, repeat and swap")
    routes = [(*full[:s], KINDS[kind](full[s], start, end), *full[s + 1 :]) for s, kind, start, end in keys]
    found = compare(staged, batches, routes, task=task, against=against, metrics=["error"], progress=progress)
    intact = found.of(full, "error")
    columns = np.stack([found.of(route, "error") for route in routes])
    means = resampled_means(columns - intact, resamples, seed, found.units)
    rows = [
        {
            **dict(zip(("stage", "kind", "start", "end"), key, strict=True)),
            "error": float(errors.mean()),
            "change": float(row[0]),
            **dict(zip(("low", "high"), interval(row, confidence), strict=True)),
            "n": len(intact),
        }
        for key, errors, row in zip(keys, columns, means, strict=True)
    ]
    options = {"against": against, "confidence": confidence, "resamples": resamples, "seed": seed}
    return SpanMap(pd.DataFrame(rows), float(intact.mean()), {**options, "chance": found.chance})
