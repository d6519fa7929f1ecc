"""The report object that ``measure`` returns: two tables, a picture, a file."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from iterconv.errors import InputError, line_of, require
from iterconv.files import read, read_json, to_json, to_parquet, write_atomically
from iterconv.measuring.drawn import Drawn
from iterconv.paths.damping import from_plain_path, to_plain_paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMAT = "iterconv report 1"
_KEY = "iterconv"
_AGAIN = "give the command that wrote it again"


@dataclass(frozen=True, eq=False)
class Report(Drawn):
    """The result of a measurement of one model."""

    curves: pd.DataFrame
    """One row for each point of a curve: stage, perturbation, position, path, metric, value, low, high, n."""
    indices: pd.DataFrame
    """One row for each index and stage: stage (from 0, or "mean"), index, value, low, high, defined, reason."""
    options: dict[str, Any]
    """The circumstances of the measurement: against, chance, min_margin, examples, bootstrap, block applications, and
    ``shared_weights``: the stages, from 0, whose blocks share weights, so that their Recurrence Index is 1 by
    construction; the precision and the memory format, unless they were those of the weights and of the batches."""

    @property
    def intact_error(self) -> float:
        """The error of the unperturbed model."""
        curves = self.curves[(self.curves.metric == "error") & (self.curves.perturbation == "extra evaluation")]
        return float(curves[curves.position == 0].value.iloc[0])

    def draw(self) -> "Figure":
        """Draw the error along each family of perturbations, with one line for each stage, and the indices."""
        from iterconv.figures.one_model import draw_report  # late, as matplotlib is optional

        return draw_report(self.curves, self.indices, self.options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to one file, whole or not at all.

        Args:
            path: The file, whose name ends in .parquet (which needs pyarrow) or .json.

        Raises:
            InputError: If the suffix is another one or pyarrow is missing.
        """
        path = Path(path)
        contents = self._to_parquet() if check_suffix(path) == ".parquet" else self._to_json()
        write_atomically(path, contents)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Read a report that ``save`` wrote.

        Args:
            path: The file, .parquet or .json.

        Returns:
            The report.

        Raises:
            InputError: If the file is missing, truncated, or not a report.
        """
        path = Path(path)
        missing = f"there is no report at {path}; `report.save` writes one"
        try:
            if check_suffix(path) == ".json":
                return cls._from_dict(read_json(path, missing, _AGAIN))
            contents = read(path, _AGAIN)
            if contents is None:
                raise InputError(missing)
            return cls._from_parquet(contents)
        except InputError:
            raise
        except Exception as problem:  # readers raise errors of many kinds on a foreign file
            told = line_of(problem, 200)
            raise InputError(f"{path} is not a readable report ({told}); delete it and {_AGAIN}") from None

    def _to_json(self) -> bytes:
        return to_json({**self._head(), "curves": to_plain(self._plain_curves())})

    def _to_parquet(self) -> bytes:
        # A Parquet file holds one table, so everything else goes into its metadata.
        return to_parquet(self._plain_curves(), _PARQUET, **{_KEY: json.dumps(self._head())})

    def _plain_curves(self) -> pd.DataFrame:
        return self.curves.assign(path=to_plain_paths(self.curves["path"]))

    def _head(self) -> dict[str, Any]:
        return {"format": _FORMAT, "options": self.options, "indices": to_plain(self.indices)}

    @classmethod
    def _from_parquet(cls, contents: bytes) -> "Report":
        arrow, parquet = require("pyarrow", _PARQUET), require("pyarrow.parquet", _PARQUET)
        table = parquet.read_table(arrow.BufferReader(contents))
        head = json.loads((table.schema.metadata or {})[_KEY.encode()])
        return cls._from_dict({**head, "curves": table.to_pandas()})

    @classmethod
    def _from_dict(cls, contents: dict[str, Any]) -> "Report":
        if contents["format"] != _FORMAT:
            raise ValueError(f"format {contents['format']!r}")
        curves = _check_table(pd.DataFrame(contents["curves"]), _CURVES)
        indices = _check_table(pd.DataFrame(contents["indices"]).astype({"stage": object}), _INDICES)
        curves["path"] = [from_plain_path(path) for path in curves["path"]]
        if not all(stage == "mean" or type(stage) is int for stage in indices["stage"]):
            raise ValueError("a stage is neither a number nor mean")
        if not isinstance(contents["options"], dict):
            raise ValueError("its options are not an object")
        return cls(curves, indices, contents["options"])


_CURVES = {
    **{"stage": "i", "perturbation": "text", "position": "i", "path": "any", "metric": "text"},
    **{"value": "f", "low": "f", "high": "f", "n": "i"},
}
_INDICES = {"stage": "any", "index": "text", "value": "f", "low": "f", "high": "f", "defined": "b", "reason": "text"}
"""The columns of the tables, and the kinds of their values: one of NumPy's kinds of numbers, text, or anything."""


def _check_table(table: pd.DataFrame, kinds: dict[str, str]) -> pd.DataFrame:
    """Turn floats into numbers again; raises ``ValueError`` for a table that ``save`` did not write."""
    for column, kind in kinds.items():
        if column not in table:
            raise ValueError(f"no column {column!r}")
        if kind == "f":
            table[column] = table[column].astype(float)
        fits = table[column].map(type).eq(str).all() if kind == "text" else table[column].dtype.kind == kind
        if kind != "any" and not fits:
            raise ValueError(f"column {column!r} holds something else")
    return table


def to_plain(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Turn columns into lists that every reader of JSON takes: NaN becomes null, and infinity text."""
    return {
        name: [
            value if not isinstance(value, float) or math.isfinite(value) else None if math.isnan(value) else str(value)
            for value in column
        ]
        for name, column in table.to_dict("list").items()
    }


def check_suffix(path: Path) -> str:
    """Return the suffix of a report's file; raises ``InputError`` if reports are not written in that format."""
    if path.suffix not in (".parquet", ".json"):
        raise InputError(f"{path} has no known format; end the name in .parquet or .json")
    return path.suffix


_PARQUET = "a report in Parquet (JSON does not)"
