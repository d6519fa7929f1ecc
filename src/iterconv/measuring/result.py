"""``Result``: a table of examples beside a small table, with a picture and a file, as settling and depth have them."""

import json
import os
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from iterconv.errors import InputError, line_of, require
from iterconv.files import read, read_json, to_json, to_parquet, write_atomically, writing
from iterconv.measuring.drawn import Drawn
from iterconv.measuring.report import check_suffix, to_plain

_KEY = "iterconv"
_PARQUET = "a table of examples in Parquet (JSON does not)"


class Result(Drawn):
    """What subclasses share, which are data classes of a small table, the examples and the options."""

    KIND: ClassVar[str]
    """The name of the kind in messages and files."""
    SMALL: ClassVar[str]
    """The name of the small table."""
    COUNTS: ClassVar[tuple[str, ...]]
    """The columns of the examples that are whole numbers or missing."""
    examples: pd.DataFrame
    options: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write both tables and the options to one file, whole or not at all.

        Args:
            path: The file, whose name ends in .parquet (which needs pyarrow and holds the examples as its table) or
                .json.

        Raises:
            InputError: If the suffix is another one, pyarrow is missing, or the file can't be written.
        """
        path = Path(path)
        small: pd.DataFrame = getattr(self, self.SMALL)
        head = {"format": self._format(), "options": self.options, self.SMALL: to_plain(small)}
        if check_suffix(path) == ".parquet":
            contents = to_parquet(self.examples, _PARQUET, **{_KEY: json.dumps(head)})
        else:
            plain = self.examples.astype({name: object for name in self.COUNTS})
            plain = plain.where(plain.notna(), None)
            contents = to_json({**head, "examples": to_plain(plain)})
        with writing(path):
            write_atomically(path, contents)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Args:
            path: The file, .parquet or .json.

        Returns:
            The result.

        Raises:
            InputError: If the file is missing, truncated, or something else.
        """
        path = Path(path)
        again = "give the command that wrote it again"
        missing = f"there is no {cls.KIND} at {path}; `save` writes one"
        try:
            if check_suffix(path) == ".json":
                return cls._from_dict(read_json(path, missing, again))
            contents = read(path, again)
            if contents is None:
                raise InputError(missing)
            arrow, parquet = require("pyarrow", _PARQUET), require("pyarrow.parquet", _PARQUET)
            table = parquet.read_table(arrow.BufferReader(contents))
            head = json.loads((table.schema.metadata or {})[_KEY.encode()])
            return cls._from_dict({**head, "examples": table.to_pandas()})
        except InputError:
            raise
        except Exception as problem:  # readers raise errors of many kinds on a foreign file
            told = line_of(problem, 200)
            raise InputError(f"{path} is not a readable {cls.KIND} ({told}); delete it and {again}") from None

    @classmethod
    def _format(cls) -> str:
        return f"iterconv {cls.KIND} 1"

    @classmethod
    def _from_dict(cls, contents: dict[str, Any]) -> Self:
        if contents["format"] != cls._format():
            raise ValueError(f"format {contents['format']!r}")
        small, examples = (_to_numbers(pd.DataFrame(contents[name])) for name in (cls.SMALL, "examples"))
        examples = examples.astype({name: "Int64" for name in cls.COUNTS})
        return cls(small, examples, dict(contents["options"]))  # type: ignore[call-arg]


def _to_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Turn what JSON made of numbers, null and the names of infinities among them, into numbers again."""
    return table.apply(lambda column: column if column.name in _WORDS else pd.to_numeric(column))


_WORDS = ("verdict",)
"""The columns that hold words."""
