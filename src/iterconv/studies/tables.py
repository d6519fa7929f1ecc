"""Tables of finished runs: what figures, claims and reports are made from, and how they are kept as small files."""

import io
import json
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.errors import InputError
from iterconv.files import read, write_atomically
from iterconv.indices import INDICES, undefined_reason
from iterconv.measuring.report import Report
from iterconv.studies.catalogue import Run
from iterconv.studies.toy import ToyRun, toy_table
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder

LEAST_MARGIN = 0.05
"""As ``measure`` has it by default: closer to chance, an index is undefined."""
_CONFIG = list(RunConfig().to_dict())


@dataclass(frozen=True, eq=False)
class Tables:
    """What a set of finished runs came to.

    All but ``toy`` have the fields of ``RunConfig`` and the run's ``name`` as columns.
    """

    runs: pd.DataFrame
    """One row a run: test_error, raw, tied, effective, mean_deviation and the rest of ``result.json``; every index by
    its name (the mean over the stages, NaN where undefined or not measured)."""
    indices: pd.DataFrame
    """One row a run, stage (from 0, or "mean") and index."""
    curves: pd.DataFrame
    """One row a run and point of a curve; without the intervals."""
    history: pd.DataFrame
    """One row a run and epoch."""
    toy: pd.DataFrame
    """As ``studies.inverse.toy_table`` has it."""

    @classmethod
    def collect(cls, configs: Iterable[Run], root: Path) -> "Tables":
        """Read the runs that are finished; the others are left out.

        Args:
            configs: The runs.
            root: The folder of all runs.

        Returns:
            The tables, empty where nothing is finished.

        Raises:
            InputError: If a file is damaged.
        """
        runs, indices, curves, history, toys = [], [], [], [], []
        for config in configs:
            if isinstance(config, ToyRun):
                toys.append(config)
                continue
            folder = RunFolder(root / config.name, config)
            if not folder.finished:
                continue
            report = Report.load(folder.path / "report.parquet")
            means = report.indices[report.indices.stage == "mean"].set_index("index")["value"]
            means = means.reindex(means.index.union(list(INDICES), sort=False))  # older reports may lack an index
            label = {**{name: config.to_dict()[name] for name in _CONFIG}, "name": config.name}
            runs.append({**label, **folder.result(), **means.to_dict()})
            indices.append(report.indices.assign(**label))
            curves.append(report.curves.drop(columns=["path", "low", "high"]).assign(**label))
            history.append(_history(folder.path / "history.csv").assign(**label))
        stacked = [
            pd.concat(parts, ignore_index=True) if parts else pd.DataFrame() for parts in (indices, curves, history)
        ]
        return cls(pd.DataFrame(runs), stacked[0], stacked[1], stacked[2], toy_table(toys, root))

    def of(self, configs: Iterable[Run]) -> "Tables":
        """The same tables with the rows of some runs only, and all of the toy's."""
        return self.named(config.name for config in configs)

    def named(self, names: Iterable[str]) -> "Tables":
        """The same by the runs' names."""
        kept = set(names)
        runs, indices, curves, history = (
            table[table["name"].isin(kept)].reset_index(drop=True) if len(table) else table
            for table in (self.runs, self.indices, self.curves, self.history)
        )
        return Tables(runs, indices, curves, history, self.toy)

    @property
    def empty(self) -> bool:
        """Whether there is neither a run nor a toy network."""
        return self.runs.empty and self.toy.empty

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the tables as small files: CSV, and Parquet for the long ones.

        Args:
            folder: Made if it is not there; files of the same names are replaced.
            facts: What else to keep, such as the command; machine and versions are added.

        Raises:
            OSError: If the folder can't be written.
        """
        for name, table in vars(self).items():
            if table.empty:
                (folder / _FILES[name]).unlink(missing_ok=True)
                continue
            # Only ``runs`` keeps the configurations; the others find them there by name.
            kept = table if name in ("runs", "toy") else table.drop(columns=_CONFIG)
            if _FILES[name].endswith(".csv"):
                contents = kept.astype({"stage": str} if "stage" in kept else {}).to_csv(
                    index=False, float_format="%.10g"
                )
                write_atomically(folder / _FILES[name], contents.encode())
            else:
                floats = {column: "float32" for column in kept.select_dtypes("float64")}
                write_atomically(folder / _FILES[name], kept.astype(floats).to_parquet(index=False, compression="zstd"))
        write_atomically(folder / "facts.json", json.dumps({**facts, **machine()}, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """Read what ``save`` wrote.

        Args:
            folder: Its folder.

        Returns:
            The tables.

        Raises:
            InputError: If the folder holds no tables, or a file is damaged.
        """
        tables = {name: _read(folder / file) for name, file in _FILES.items()}
        runs = tables["runs"]
        if len(runs):  # older tables may lack an index
            tables["runs"] = runs = runs.assign(**{name: math.nan for name in INDICES if name not in runs})
        if runs.empty and tables["toy"].empty:
            raise InputError(
                f"{folder} holds no tables; give a folder that `iterconv reproduce` wrote, report-quick/tables"
            )
        for name, table in tables.items():
            if len(table):
                _check(name, table, folder / _FILES[name])
        for name in ("indices", "curves"):
            if len(runs) and tables[name].empty:
                raise InputError(f"{folder / _FILES['runs']} is there without {_FILES[name]}; make them again")
        for name in ("indices", "curves", "history"):
            if len(tables[name]):
                if runs.empty:
                    raise InputError(f"{folder / _FILES[name]} is there without {_FILES['runs']}; make them again")
                tables[name] = tables[name].merge(runs[["name", *_CONFIG]], on="name")
        return cls(**tables)


def _read(path: Path) -> pd.DataFrame:
    """A table as it is in its file; empty where there is none."""
    contents = read(path, "make it again")
    if contents is None:
        return pd.DataFrame()
    try:
        if path.suffix == ".csv":
            return pd.read_csv(io.BytesIO(contents))
        table = pd.read_parquet(io.BytesIO(contents))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as problem:
        raise InputError(f"{path} is damaged ({' '.join(str(problem).split())[:80]}); make it again") from None
    return table.astype({column: "float64" for column in table.select_dtypes("float32")})


def _history(path: Path) -> pd.DataFrame:
    """One row an epoch, of a finished run."""
    again = "delete the run's folder and train it again"
    contents = read(path, again)
    try:
        return pd.read_csv(io.BytesIO(contents or b""))
    except ValueError:  # which pandas raises for an empty file too
        raise InputError(f"{path} is missing or damaged; {again}") from None


def _check(name: str, table: pd.DataFrame, path: Path) -> None:
    """Make numbers of what has to be numbers, and refuse what could not be judged."""
    numbers = [*_NUMBERS[name], *(INDICES if name == "runs" else ())]
    for column in (*_KEYS[name], *_TEXTS[name], *numbers, *(_CONFIG if name == "runs" else ())):
        if column not in table:
            raise InputError(f"{path} lacks the column {column!r}; make it again")
    try:
        for column in numbers:
            table[column] = pd.to_numeric(table[column])
        if name == "indices":
            stages = [stage if stage == "mean" else int(stage) for stage in table["stage"]]
            table["stage"] = pd.Series(stages, dtype=object, index=table.index)
    except (ValueError, TypeError, OverflowError) as problem:
        raise InputError(f"{path}: {problem}; make it again") from None
    for column in (*_TEXTS[name], *numbers):
        if column not in (*_UNDEFINED, *INDICES) and table[column].isna().any():
            kind = "a number" if column in numbers else "text"
            raise InputError(f"{path}: {column} is not {kind} in every row; make it again")
    table[_TEXTS[name]] = table[_TEXTS[name]].astype(str)  # some names look like numbers
    twice = table[table.duplicated(_KEYS[name])]
    if len(twice):
        which = ", ".join(f"{column} {twice[column].iloc[0]}" for column in _KEYS[name])
        raise InputError(f"{path} has a row twice ({which}); make it again")


_FILES = {
    "runs": "runs.csv",
    "indices": "indices.csv",
    "curves": "curves.parquet",
    "history": "history.csv",
    "toy": "toy.parquet",
}


_UNDEFINED = ("value", "rmse", "distance")
"""Numbers that are missing where they are not defined, besides the indices."""
_KEYS = {
    "runs": ["name"],
    "indices": ["name", "stage", "index"],
    "curves": ["name", "stage", "perturbation", "position", "metric"],
    "history": ["name", "epoch"],
    "toy": ["kind", "seed", "perturbation", "position", "point"],
}
"""What tells the rows of a table apart."""
_TEXTS = {
    "runs": ["name", "data", "residual", "init", "kernel", "selection"],
    "indices": ["name", "index"],
    "curves": ["name", "perturbation", "metric"],
    "history": ["name"],
    "toy": ["kind", "perturbation"],
}
_NUMBERS = {
    "runs": [
        *("test_error", "chance", "raw", "tied", "effective", "mean_deviation"),
        *("width", "coupling", "seed", "stages", "blocks", "norm_scale", "first_coupled"),
    ],
    "indices": ["value"],
    "curves": ["stage", "position", "value"],
    "history": ["epoch"],
    "toy": ["seed", "position", "point", "rmse", "distance"],
}


def machine() -> dict[str, Any]:
    """What numbers may depend on: processor, cores, system, versions."""
    versions = {}
    for package in ("iterconv", "torch", "numpy", "pandas"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or "unknown"


def prediction_indices(tables: Tables) -> pd.DataFrame:
    """Compute the indices of errors with errors against the unperturbed networks' own predictions.

    Source: Lippl et al., App. B. Choice: the chance level is that of the labels.

    Args:
        tables: Tables whose curves have the metric ``disagreement``.

    Returns:
        One row a run, stage (from 0, or "mean") and index: ``value``, NaN where undefined.
    """
    rows = []
    for name, curves in tables.curves[tables.curves["metric"] == "disagreement"].groupby("name", sort=False):
        run = tables.runs[tables.runs["name"] == name].iloc[0]
        label = {"name": name, **{field: run[field] for field in _CONFIG}}
        for index in (index for index in INDICES.values() if index.metric == "error"):
            own = curves[curves["perturbation"] == index.family].sort_values(["stage", "position"])
            values = {}
            for stage, curve in own.groupby("stage"):
                errors = curve["value"].to_numpy()
                reason = undefined_reason(index, errors[:, None], run["chance"], LEAST_MARGIN, 0.95)
                values[stage] = math.nan if reason else float(index(errors, run["chance"]))
            values["mean"] = sum(values.values()) / len(values) if values else math.nan
            rows += [{**label, "stage": stage, "index": index.name, "value": value} for stage, value in values.items()]
    return pd.DataFrame(rows)
