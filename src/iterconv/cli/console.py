"""The parts that commands share: the console, records for machines, and signs of progress."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from iterconv.errors import require

require("rich", "the command line")
from rich.console import Console, RenderableType  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal, as in the log of a job."""


class _Console(Console):
    """Standard output; what is said there goes to standard error instead while records for machines are printed."""

    _spinner: Progress | None = None

    def on_broken_pipe(self) -> None:
        """Leave a broken pipe to ``cli.main``; rich itself would exit with 1."""
        raise BrokenPipeError

    @contextmanager
    def for_machines(self, wanted: bool) -> Iterator[None]:
        """Print records on standard output inside the context, and everything else on standard error."""
        before, self.stderr = self.stderr, wanted
        try:
            yield
        finally:
            self.stderr = before

    def emit(self, **values: Any) -> None:
        """Print a JSON object on a line of its own, if records are wanted."""
        if self.stderr:
            sys.stdout.write(json.dumps(_plain(values), allow_nan=False) + "\n")
            sys.stdout.flush()

    def doing(self, what: str) -> None:
        """Show on a terminal what is being done, with the time since it began, until something else is shown."""
        self.done()
        place = terminal()
        if place.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._spinner = Progress(*columns, console=place, transient=True, refresh_per_second=4)
            self._spinner.add_task(what, total=None)
            self._spinner.start()

    def done(self) -> None:
        """Take away what ``doing`` shows."""
        spinner, self._spinner = self._spinner, None
        if spinner:
            spinner.stop()


# Markup is off, since the paths and names that are printed may hold brackets and colons.
console = _Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def terminal() -> Console:
    """Return the console for what moves: a terminal if there is one, be it that of standard error only."""
    # Lines on standard output stand above a bar only if both are of one console.
    return console if console.is_terminal else Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def _plain(value: Any) -> Any:
    """Make a value one of JSON's: numbers that JSON does not have become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | bool):
        return value
    value = getattr(value, "item", lambda: value)()  # of NumPy's numbers
    if isinstance(value, int | float | bool):
        return value if math.isfinite(value) else None
    return str(value)


class Bar(Progress):
    """A progress bar with the time left. It is called with the count so far, and with the total where that changes.

    Where there is no terminal, a line tells of the progress now and then instead.

    Args:
        what: The plural noun of the things that are counted.
        total: The total; None if it is unknown yet.
        above: What to show above the bar on a terminal, asked for anew twice a second.
    """

    def __init__(self, what: str, total: float | None, above: Callable[[], RenderableType] | None = None) -> None:
        self._above: Callable[[], RenderableType] | None = None  # not yet: the parent asks for it while it is made
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        place = terminal()
        left = TextColumn("left"), TimeRemainingColumn()
        super().__init__(*columns, *left, console=place, refresh_per_second=2, disable=not place.is_terminal)
        self._above = above
        self._told = time.monotonic()
        self._task = self.add_task(what, total=total)

    def __call__(self, done: float, of: float | None = None) -> None:
        """Show a count; the total stays as it was unless it is given."""
        self.update(self._task, completed=done, total=of)
        if self.disable and time.monotonic() - self._told > LOG_EVERY:
            self._told = time.monotonic()
            self._log()

    def _log(self) -> None:
        [task] = self.tasks
        total = f"/{task.total:g}" if task.total is not None else ""
        left = f", about {task.time_remaining:.0f} s left" if task.time_remaining is not None else ""
        self.console.print(f"{task.description} {task.completed:g}{total} after {task.elapsed or 0:.0f} s{left}")

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
    console.done()
    with Bar(what, total, above) as shown:
        try:
            yield shown
        except BaseException:
            shown.hide()
            raise
