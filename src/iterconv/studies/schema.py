"""Schemas: how a table is kept as a small file, and what it has to hold when it is read again."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from iterconv.errors import InputError, line_of
from iterconv.files import read, write_atomically

Convert = Callable[[pd.Series], pd.Series]
"""Takes a column as it is in a file and returns it as it is in memory; raises ``ValueError`` if that makes no sense."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The file of a table, and its columns."""

    file: str
    """The file's name, which ends in .csv, or in .parquet for long tables."""
    keys: tuple[str, ...]
    """The columns that tell rows apart."""
    columns: Mapping[str, Convert]
    """The columns that have to be there; others are kept as they are."""
    later: tuple[str, ...] = ()
    """Columns that tables of older versions lack; there they are NaN."""

    def write(self, folder: Path, table: pd.DataFrame) -> None:
        """Write a table; without rows, its file is removed.

        Raises:
            OSError: If the file can't be written.
        """
        path = folder / self.file
        if table.empty:
            path.unlink(missing_ok=True)
        elif path.suffix == ".csv":
            write_atomically(path, table.to_csv(index=False, float_format="%.10g").encode())
        else:
            floats = {column: "float32" for column in table.select_dtypes("float64")}
            write_atomically(path, table.astype(floats).to_parquet(index=False, compression="zstd"))

    def read(self, folder: Path) -> pd.DataFrame:
        """Read a table.

        Args:
            folder: The folder of its file.

        Returns:
            The table; empty where there is no file.

        Raises:
            InputError: If the file can't be read, is damaged, or lacks what has to be in it.
        """
        path = folder / self.file
        contents = read(path, "make it again")
        if contents is None:
            return pd.DataFrame()
        try:
            table = (pd.read_csv if path.suffix == ".csv" else pd.read_parquet)(io.BytesIO(contents))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as problem:
            raise InputError(f"{path} is damaged ({line_of(problem)}); make it again") from None
        table = table.astype({column: "float64" for column in table.select_dtypes("float32")})
        return self._check(table, path) if len(table) else table

    def _check(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Convert the columns; refuse a table that lacks one, or that could not be judged."""
        for column, convert in self.columns.items():
            if column not in table:
                if column not in self.later:
                    raise InputError(f"{path} lacks the column {column!r}; make it again")
                continue
            try:
                table[column] = convert(table[column])
            except ValueError as problem:
                raise InputError(f"{path}: {column} {problem}; make it again") from None
        twice = table[table.duplicated(list(self.keys))]
        if len(twice):
            which = ", ".join(f"{column} {twice[column].iloc[0]}" for column in self.keys)
            raise InputError(f"{path} has a row twice ({which}); make it again")
        return table.assign(**{column: float("nan") for column in self.later if column not in table})


def text(values: pd.Series) -> pd.Series:
    """Text in every row."""
    if values.isna().any():
        raise ValueError("is not text in every row")
    return values.astype(str)  # some names look like numbers


def number_or_nan(values: pd.Series) -> pd.Series:
    """Numbers; NaN where they are not defined."""
    try:
        return pd.to_numeric(values)
    except (ValueError, TypeError) as problem:
        raise ValueError(f"is not a number in every row ({line_of(problem)})") from None


def number(values: pd.Series) -> pd.Series:
    """A number in every row."""
    numbers = number_or_nan(values)
    if numbers.isna().any():
        raise ValueError("is not a number in every row")
    return numbers


def stage_or_mean(values: pd.Series) -> pd.Series:
    """The number of a stage, from 0, or "mean"."""
    try:
        stages = [stage if stage == "mean" else int(stage) for stage in values]
    except (ValueError, TypeError, OverflowError) as problem:
        raise ValueError(f"is neither a stage nor 'mean' in every row ({line_of(problem)})") from None
    return pd.Series(stages, dtype=object, index=values.index)
