"""Tables of finished runs: what figures, claims and reports are made from."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from iterconv.reports import Report
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder


def run_table(configs: Iterable[RunConfig], root: Path) -> pd.DataFrame:
    """One row a finished run: its configuration, its errors and counts, its indices.

    Args:
        configs: The runs; those that are not finished are left out.
        root: The folder of all runs.

    Returns:
        Columns: the fields of ``RunConfig``; name, test_error, raw, tied, effective, mean_deviation and the
        rest of ``result.json``; convergence, recurrence, divergence (means over the stages, NaN where
        undefined).
    """
    rows = []
    for folder in _finished(configs, root):
        report = Report.load(folder.path / "report.parquet")
        means = report.indices[report.indices.stage == "mean"].set_index("index")["value"]
        rows.append({**folder.config.to_dict(), **folder.result(), **means.to_dict()})
    return pd.DataFrame(rows)


def index_table(configs: Iterable[RunConfig], root: Path) -> pd.DataFrame:
    """The indices of finished runs: one row a run, stage and index, with the run's name and configuration."""
    return _stacked(configs, root, "indices")


def curve_table(configs: Iterable[RunConfig], root: Path) -> pd.DataFrame:
    """The curves of finished runs: one row a point, with the run's name and configuration."""
    return _stacked(configs, root, "curves")


def history_table(configs: Iterable[RunConfig], root: Path) -> pd.DataFrame:
    """The training histories of finished runs: one row an epoch, with the run's name and configuration."""
    parts = [_labelled(pd.read_csv(f.path / "history.csv"), f) for f in _finished(configs, root)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _stacked(configs: Iterable[RunConfig], root: Path, table: str) -> pd.DataFrame:
    parts = [_labelled(getattr(Report.load(f.path / "report.parquet"), table), f) for f in _finished(configs, root)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _labelled(table: pd.DataFrame, folder: RunFolder) -> pd.DataFrame:
    return table.assign(**folder.config.to_dict(), name=folder.config.name)


def _finished(configs: Iterable[RunConfig], root: Path) -> list[RunFolder]:
    folders = (RunFolder(root / config.name, config) for config in configs)
    return [folder for folder in folders if folder.finished]
