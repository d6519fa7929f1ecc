"""The parts that commands share: the console, progress bars, tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from typing import Any

import pandas as pd

from iterconv.errors import require

require("rich", "the command line")
from rich.console import Console  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a broken pipe to ``cli.main``; rich itself would exit with 1."""
        raise BrokenPipeError


# Markup is off, since the paths and names that are printed may hold brackets and colons.
console = _Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_indices(indices: pd.DataFrame) -> None:
    """Print indices with intervals, and the reasons of undefined ones; stages are numbered from 1, as in the paper."""
    shown = indices.assign(text=[_format_index(row) for row in indices.itertuples()])
    shown["stage"] = [f"stage {stage + 1}" if stage != "mean" else "mean" for stage in shown.stage]
    wide = shown.pivot(index="index", columns="stage", values="text")
    # pandas sorts by name; the table keeps the order of the indices and of the stages.
    wide = wide.loc[list(dict.fromkeys(shown["index"])), list(dict.fromkeys(shown.stage))]
    console.print(wide.rename_axis(None, axis=1).to_string())
    for row in indices[(~indices.defined) & (indices.stage != "mean")].itertuples():
        console.print(f"{row.index} index of stage {row.stage + 1} is undefined: {row.reason}")


def _format_index(row: Any) -> str:
    """Format an index with its interval, which it lacks where nothing was resampled."""
    if not row.defined:
        return "undefined"
    return f"{row.value:.3f}" if isnan(row.low) else f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"


@contextmanager
def bar(what: str, total: float | None) -> Iterator[Any]:
    """Show a progress bar with the time left inside the context.

    Args:
        what: The plural noun of the things that are counted.
        total: The total; pass None if it is unknown, and then give it with each call of the yielded function.

    Yields:
        A function of the count so far, and optionally of the total.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        try:
            yield lambda done, of=None: progress.update(task, completed=done, total=total if of is None else of)
        except BaseException:  # the bar goes, so that the message about the exception stands alone
            progress.live.transient = True
            progress.update(task, visible=False)
            raise
