"""Tables of finished runs, from which figures, claims and reports are made, and which are kept as small files."""

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.errors import InputError
from iterconv.files import write_atomically
from iterconv.indices import INDICES, undefined_reason
from iterconv.studies.jobs import CONFIG, StudyJob
from iterconv.studies.schema import Schema, number, number_or_nan, stage_or_mean, text
from iterconv.studies.where import SETTING

LEAST_MARGIN = 0.05
"""The least margin to chance, as ``measure`` has it by default; closer to chance, an index is undefined."""
_COMPARED = {
    **dict.fromkeys(("name", "data", "residual", "init", "kernel", "selection"), text),
    **dict.fromkeys(("test_error", "chance", "raw", "tied", "effective", "mean_deviation"), number),
    **dict.fromkeys(("width", "coupling", "seed", "stages", "blocks", "norm_scale", "first_coupled"), number),
}
"""The columns that no table of runs goes without, because claims compare runs by them."""

SCHEMAS = {
    "runs": Schema(
        file="runs.csv",
        keys=("name",),
        columns={**_COMPARED, **dict.fromkeys(INDICES, number_or_nan)},
        later=tuple(column for column in (*INDICES, *CONFIG) if column not in _COMPARED),
    ),
    "indices": Schema(
        file="indices.csv",
        keys=("name", "stage", "index"),
        columns={"name": text, "stage": stage_or_mean, "index": text, "value": number_or_nan},
    ),
    "curves": Schema(
        file="curves.parquet",
        keys=("name", "stage", "perturbation", "position", "metric"),
        columns={
            **dict.fromkeys(("name", "perturbation", "metric"), text),
            **{"stage": number, "position": number, "value": number_or_nan},
        },
    ),
    "history": Schema(file="history.csv", keys=("name", "epoch"), columns={"name": text, "epoch": number}),
    "toy": Schema(
        file="toy.parquet",
        keys=("kind", "seed", "perturbation", "position", "point"),
        columns={
            **{"kind": text, "perturbation": text},
            **dict.fromkeys(("seed", "position", "point"), number),
            **dict.fromkeys(("rmse", "distance"), number_or_nan),
        },
    ),
    "looks": Schema(
        file="looks.csv",
        keys=("claim", *SETTING),
        columns={
            **{"claim": text, "data": text, "samples": number_or_nan},
            **dict.fromkeys((*SETTING[2:], "seeds", "most"), number),
        },
    ),
    "prefix": Schema(
        file="prefix.parquet",
        keys=("name", "beyond", "length", "iterations"),
        columns={
            **dict.fromkeys(("name", "init", "lacks", "beyond"), text),
            **dict.fromkeys(("coupling", "seed", "length", "iterations", "accuracy"), number),
            **dict.fromkeys(("bit_accuracy", "residual", "settled", "finite"), number_or_nan),
        },
    ),
    "prefix_nets": Schema(
        file="prefix_nets.csv",
        keys=("name",),
        columns={
            **{**dict.fromkeys(("name", "init", "lacks", "data"), text), "samples": number_or_nan},
            **dict.fromkeys((*SETTING[2:], "coupling", "seed", "raw", "tied", "effective", "mean_deviation"), number),
            **dict.fromkeys(INDICES, number_or_nan),
        },
        later=tuple(INDICES),
    ),
}
"""The tables by their names, which are the fields of `Tables`."""
_LABELLED = ("indices", "curves", "history")
"""The tables whose rows are labelled with a run's configuration, in memory but not in their files."""


@dataclass(frozen=True, eq=False)
class Tables:
    """The results of a set of finished runs.

    All but ``toy`` and those of prefix sums have the fields of ``RunConfig`` and the run's ``name`` as columns.
    """

    runs: pd.DataFrame
    """One row a run: test_error, raw, tied, effective, mean_deviation and the rest of ``result.json``; convergence,
    recurrence, divergence (means over the stages, NaN where undefined)."""
    indices: pd.DataFrame
    """One row a run, stage (from 0, or "mean") and index."""
    curves: pd.DataFrame
    """One row a run and point of a curve; without the intervals."""
    history: pd.DataFrame
    """One row a run and epoch."""
    toy: pd.DataFrame
    """One row a toy network, perturbation, position and point, see ``ToyRun.tables``."""
    looks: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row a claim and setting to which seeds are added because of what is seen: ``seeds``, the number that the
    studies have by themselves, and ``most``, the largest number; see `iterconv.studies.more_seeds`."""
    prefix: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row a net for prefix sums, rule, length and read-out, see ``PrefixRun.tables``."""
    prefix_nets: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row a net for prefix sums: its indices and parameter counts."""

    @classmethod
    def collect(cls, jobs: Sequence[StudyJob], root: Path) -> "Tables":
        """Read the jobs that are finished; the others are left out.

        Args:
            jobs: The jobs.
            root: The folder of all runs.

        Returns:
            The tables, empty where nothing is finished.

        Raises:
            InputError: If a file is damaged.
        """
        parts: dict[str, list[pd.DataFrame]] = {name: [] for name in SCHEMAS}
        for job in jobs:
            if job.finished(root):
                for name, rows in job.tables(root).items():
                    parts[name].append(rows)
        parts["looks"] = [SCHEMAS["looks"].read(root)]
        return cls(
            **{name: pd.concat(own, ignore_index=True) if own else pd.DataFrame() for name, own in parts.items()}
        )

    def named(self, names: Iterable[str]) -> "Tables":
        """Select the rows of some runs and nets for prefix sums by their names, and all of the toy networks'."""
        kept = set(names)
        tables = {name: getattr(self, name) for name, schema in SCHEMAS.items() if schema.keys[0] == "name"}
        own = {name: table[table["name"].isin(kept)] for name, table in tables.items() if len(table)}
        return replace(self, **{name: table.reset_index(drop=True) for name, table in own.items()})

    @property
    def empty(self) -> bool:
        """True if there is neither a run nor a toy network nor a net for prefix sums."""
        return self.runs.empty and self.toy.empty and self.prefix.empty

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the tables as small files: CSV, and Parquet for the long ones.

        Args:
            folder: Made if it does not exist; files of the same names are replaced.
            facts: Further facts to keep, such as the command; machine and versions are added.

        Raises:
            OSError: If the folder can't be written.
        """
        for name, schema in SCHEMAS.items():
            table = getattr(self, name)
            if name in _LABELLED and len(table):  # the configurations are found in ``runs`` by name
                table = table.drop(columns=list(CONFIG))
            schema.write(folder, table)
        write_atomically(folder / "facts.json", json.dumps({**facts, **machine()}, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """Read what ``save`` wrote, in this or in an older version.

        Args:
            folder: The folder of the tables.

        Returns:
            The tables.

        Raises:
            InputError: If the folder holds no tables, or a file is damaged.
        """
        tables = {name: schema.read(folder) for name, schema in SCHEMAS.items()}
        runs = tables["runs"]
        if len(runs):  # of indices that were registered since
            tables["runs"] = runs = runs.assign(**{name: math.nan for name in INDICES if name not in runs})
        if runs.empty and tables["toy"].empty and tables["prefix"].empty:
            raise InputError(
                f"{folder} holds no tables; give a folder that `iterconv reproduce` wrote, report-quick/tables"
            )
        for name in _LABELLED:
            path, others = folder / SCHEMAS["runs"].file, SCHEMAS[name].file
            if len(runs) and tables[name].empty and name != "history":
                raise InputError(f"{path} is there without {others}; make them again")
            if runs.empty and len(tables[name]):
                raise InputError(f"{folder / others} is there without {path.name}; make them again")
            if len(runs) and len(tables[name]):
                tables[name] = tables[name].merge(runs[["name", *CONFIG]], on="name")
        return cls(**tables)


def machine() -> dict[str, Any]:
    """Tell what numbers may depend on: processor, cores, system, versions."""
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
    """Compute the indices with errors against the unperturbed networks' own predictions.

    Source: Lippl et al., App. B. Choice: the chance level is that of the labels.

    Args:
        tables: Tables with curves of the metric ``disagreement``.

    Returns:
        One row a run, stage (from 0, or "mean") and index: ``value``, NaN where undefined.
    """
    curves = tables.curves[tables.curves["metric"] == "disagreement"].sort_values(["stage", "position"])
    errors: dict[tuple[str, str], dict[int, Any]] = {}  # by run and family, then by stage
    for (name, family, stage), values in curves.groupby(["name", "perturbation", "stage"])["value"]:
        errors.setdefault((name, family), {})[stage] = values.to_numpy()
    rows = []
    for run in tables.runs[tables.runs["name"].isin(curves["name"])].to_dict("records"):
        label = {"name": run["name"], **{field: run[field] for field in CONFIG}}
        for index in (index for index in INDICES.values() if index.metric == "error"):
            values = {}
            for stage, curve in errors.get((run["name"], index.family), {}).items():
                reason = undefined_reason(index, curve[:, None], run["chance"], LEAST_MARGIN, 0.95)
                values[stage] = math.nan if reason else float(index(curve, run["chance"]))
            values["mean"] = sum(values.values()) / len(values) if values else math.nan
            rows += [{**label, "stage": stage, "index": index.name, "value": value} for stage, value in values.items()]
    return pd.DataFrame(rows)
