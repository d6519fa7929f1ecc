"""The parts that commands share: the console, progress bars, tables."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import isnan
from typing import Any

import pandas as pd

from iterconv.errors import require
from iterconv.indices import INDICES, explanations

require("rich", "the command line")
from rich.console import Console, RenderableType  # noqa: E402
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
    defined = indices[indices.defined]
    for sentence in explanations(
        (INDICES[row.index], row.value) for row in defined.itertuples() if row.index in INDICES
    ):
        console.print(sentence)


def _format_index(row: Any) -> str:
    """Format an index with its interval, which it lacks where nothing was resampled."""
    if not row.defined:
        return "undefined"
    return f"{row.value:.3f}" if isnan(row.low) else f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"


class Bar(Progress):
    """A progress bar with the time left. It is called with the count so far, and with the total where that changes.

    Args:
        what: The plural noun of the things that are counted.
        total: The total; None if it is unknown yet.
        above: What to show above the bar on a terminal, asked for anew twice a second.
    """

    def __init__(self, what: str, total: float | None, above: Callable[[], RenderableType] | None = None) -> None:
        self._above: Callable[[], RenderableType] | None = None  # not yet: the parent asks for it while it is made
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Lines on standard output stand above the bar only if both are of one console. Where the output goes to a
        # file, the bar goes to the terminal of standard error, if there is one.
        place = console if console.is_terminal else Console(stderr=True)
        super().__init__(*columns, TextColumn("left"), TimeRemainingColumn(), console=place, refresh_per_second=2)
        self._above = above
        self._task = self.add_task(what, total=total)

    def __call__(self, done: float, of: float | None = None) -> None:
        """Show a count; the total stays as it was unless it is given."""
        self.update(self._task, completed=done, total=of)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what is shown, from top to bottom."""
        if self._above and self.console.is_terminal and not self.finished:
            yield self._above()
        yield from super().get_renderables()

    def hide(self) -> None:
        """Take the bar away, so that a message or a question stands alone."""
        self.live.transient = True
        self._above = None
        self.update(self._task, visible=False)
        self.stop()


@contextmanager
def bar(what: str, total: float | None, above: Callable[[], RenderableType] | None = None) -> Iterator[Bar]:
    """Show a `Bar` inside the context; an exception takes it away."""
    with Bar(what, total, above) as shown:
        try:
            yield shown
        except BaseException:
            shown.hide()
            raise
