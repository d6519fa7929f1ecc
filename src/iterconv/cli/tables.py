"""Tables of indices, as the commands print them."""

from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.cli.console import console
from iterconv.errors import InputError
from iterconv.indices import INDICES, explanations


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


def index_records(indices: pd.DataFrame) -> list[dict[str, Any]]:
    """Return indices as records for machines; stages are numbered from 1, as in what is printed."""
    stages = [stage if stage == "mean" else int(stage) + 1 for stage in indices.stage]
    return [{str(key): value for key, value in row.items()} for row in indices.assign(stage=stages).to_dict("records")]


def check_table(out: Path) -> None:
    """Raise ``InputError`` if a file's name is not that of a table."""
    if out.suffix != ".csv":
        raise InputError(f"--out {out} does not name a table; let it end in .csv")
