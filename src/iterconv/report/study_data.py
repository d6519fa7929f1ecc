"""The rows behind the plots of a report on studies: small enough for a page, and labelled for its controls."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from iterconv.figures.style import condition_label, variant_label
from iterconv.indices import INDICES
from iterconv.paths.families import FAMILIES
from iterconv.report.page import METRICS, compact, rows_of
from iterconv.studies.jobs import CONFIG
from iterconv.studies.tables import Tables
from iterconv.studies.where import split
from iterconv.training.command import command_of_run

MEASURES = {
    "test_error": "test error",
    **{index.name: index.title for index in INDICES.values()},
    "mean_deviation": "mean deviation of blocks",
    "effective": "effective parameter count",
    "raw": "raw parameter count",
    "test_exact_error": "sets not exactly right",
}
"""The columns of runs that can be drawn, with their names."""
LABELS = ("setting", "kind", "width", "coupling", "seed")
"""What tells runs apart, each of which is a control."""
POINTS = 250_000
"""The number of points of curves that a page holds; further metrics are left out."""
EPOCHS = 40
"""The number of epochs of each run that a page holds."""


def label_runs(tables: Tables, studies: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Label the runs with what the controls choose by.

    Args:
        tables: The tables of the runs.
        studies: The names of the studies of each run, by its name.

    Returns:
        The runs with the columns of ``LABELS``, ``study``, and ``id``, a small number, all of them text but the last.
    """
    runs = tables.runs
    settings = pd.concat([pd.Series(str(where), index=own.index) for where, own in split(runs)])
    return runs.assign(
        id=range(len(runs)),
        setting=settings,
        kind=[
            _kind(*row) for row in runs[["residual", "norm_scale", "kernel", "first_coupled"]].itertuples(index=False)
        ],
        width=runs["width"].astype(str),
        coupling=[condition_label(str(i), float(c)) for i, c in zip(runs["init"], runs["coupling"], strict=True)],
        seed=runs["seed"].astype(str),
        study=[sorted(studies.get(name, ())) for name in runs["name"]],
        order=list(zip(runs["coupling"], runs["init"], strict=True)),
    )


def _kind(residual: str, norm_scale: float, kernel: str, first_coupled: int) -> str:
    variant = variant_label(norm_scale, kernel, first_coupled)
    return ", ".join([residual] * (residual != "ordinary") + [variant] * (variant != "standard")) or "ordinary"


def make_rows(tables: Tables, runs: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Make the rows behind the plots.

    Args:
        tables: The tables of the runs.
        runs: The runs as ``label_runs`` returns them.

    Returns:
        The rows by their names: runs, curves, indices and history. A curve is one row with lists, to be short.
    """
    ids = dict(zip(runs["name"], runs["id"], strict=True))
    return {
        "runs": [_run_row(*both) for both in zip(runs.to_dict("records"), tables.runs.to_dict("records"), strict=True)],
        "curves": _curve_rows(tables.curves, ids),
        "indices": _index_rows(tables.indices, ids),
        "history": _epoch_rows(tables.history, ids),
    }


def _run_row(labelled: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    measures = {name: compact(float(row[name])) for name in MEASURES if name in row and not pd.isna(row[name])}
    facts = {
        **{name: row[name] for name in CONFIG if not pd.isna(row[name])},
        **{name: f"{row[name]:.4g}" for name in measures if name not in ("raw", "effective")},
        **{name: f"{row[name]:.0f}" for name in ("raw", "tied", "effective")},
    }
    return {
        "run": row["name"],
        **{name: labelled[name] for name in ("id", "study", *LABELS)},
        **measures,
        "chance": row["chance"],
        "command": command_of_run(row),
        "facts": {name.replace("_", " "): str(value) for name, value in facts.items()},
    }


def _curve_rows(curves: pd.DataFrame, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    points = 0
    for metric in METRICS:
        own = curves[curves["metric"] == metric] if len(curves) else curves
        points += len(own)
        if points > POINTS and rows:
            break
        for (name, stage, family), curve in own.groupby(["name", "stage", "perturbation"], sort=False):
            rows.append(
                {
                    **{"id": ids[name], "stage": str(stage + 1), "family": family, "metric": metric},
                    "x": _shorten(curve["position"].tolist()),
                    "y": [compact(value, 3) for value in curve["value"]],
                }
            )
    return rows


def _shorten(positions: list[int]) -> int | list[int]:
    """Keep the first of positions only, if they follow each other, as charts can count."""
    first = positions[0]
    return first if positions == list(range(first, first + len(positions))) else positions


def metrics_in(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return the metrics that are kept in rows of curves, with their names."""
    there = {row["metric"] for row in rows}
    return {name: title for name, title in METRICS.items() if name in there}


def families_in(rows: list[dict[str, Any]]) -> list[str]:
    """Return the families of perturbations in rows of curves, those that are known to iterconv first."""
    there = list(dict.fromkeys(row["family"] for row in rows))
    return sorted(there, key=lambda name: list(FAMILIES).index(name) if name in FAMILIES else len(FAMILIES))


def _index_rows(indices: pd.DataFrame, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    if indices.empty:
        return []
    own = indices.reindex(columns=["name", "stage", "index", "value", "low", "high"]).dropna(subset=["value"])
    own = own.assign(id=own["name"].map(ids), stage=[s if s == "mean" else str(s + 1) for s in own["stage"]])
    return rows_of(own.drop(columns="name"))


def _epoch_rows(history: pd.DataFrame, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = []
    for name, own in history.groupby("name", sort=False) if len(history) else ():
        kept = own.iloc[np.unique(np.linspace(0, len(own) - 1, EPOCHS).astype(int))]
        columns = {"epoch": "epoch", "training": "train_error", "validation": "selection_error"}
        values = {title: [compact(value, 3) for value in kept[column]] for title, column in columns.items()}
        rows.append({"id": ids[name], **values})
    return rows
