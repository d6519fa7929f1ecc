"""What commands share: the console, progress bars, tables, and places that can be written."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.errors import InputError, require

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
        """Leave it to ``cli.main``; rich itself would exit with 1."""
        raise BrokenPipeError


# No markup: paths and names are printed, which may hold brackets and colons.
console = _Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_indices(indices: pd.DataFrame) -> None:
    """Print indices with intervals, stages as columns numbered from 1 as in the paper, and why some are undefined."""
    shown = indices.assign(
        text=[
            f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.defined else "undefined"
            for row in indices.itertuples()
        ]
    )
    shown["stage"] = [f"stage {stage + 1}" if stage != "mean" else "mean" for stage in shown.stage]
    wide = shown.pivot(index="index", columns="stage", values="text")
    console.print(wide[list(dict.fromkeys(shown.stage))].rename_axis(None, axis=1).to_string())
    for row in indices[(~indices.defined) & (indices.stage != "mean")].itertuples():
        console.print(f"{row.index} index of stage {row.stage + 1} is undefined: {row.reason}")


@contextmanager
def bar(what: str, total: float | None) -> Iterator[Any]:
    """A progress bar with the time left; yields a function that takes how much is done.

    Args:
        what: What is counted.
        total: How many there are; where that is not known, it may be told with what is done.
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
            yield lambda done, of=total: progress.update(task, completed=done, total=of)
        except BaseException:  # what is said of it stands alone
            progress.live.transient = True
            progress.update(task, visible=False)
            raise


def require_folder(path: Path, option: str = "--out") -> None:
    """Make a folder, or raise ``InputError`` where that can't be done or nothing can be written there."""
    _probe(path, "", path, option)


def require_file(path: Path, option: str = "--out") -> None:
    """Make a file's folder, or raise ``InputError`` where no such file can be written; it is left as it is."""
    try:
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder; name a file")
    except OSError:  # a name that is too long, or a folder that can't be entered, as told below
        pass
    _probe(path.parent, f".{path.name}.", path, option)


def _probe(folder: Path, prefix: str, path: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix) as file:  # permissions alone don't tell
            file.write(b" " * 4096)
            file.flush()
    except OSError as problem:
        raise InputError(f"can't write to {path} ({problem.strerror}); choose another {option}") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that can't be written, as ``write_atomically`` names a hidden one or none."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"can't write {path} ({problem.strerror}); make room, or name another file") from None
