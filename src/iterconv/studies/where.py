"""Where runs belong: the circumstances that runs have to share if they are to be compared."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any

import pandas as pd

from iterconv.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Where:
    """A data set, an architecture and a length of training: one of the settings in which claims are judged."""

    data: str
    """The data set, or a task whose examples are drawn afresh."""
    samples: int | None = None
    """The number of training samples, if they are not all used."""
    stages: int = 0
    blocks: int = 0
    epochs: int = 0
    """The epochs; 0 for a task without a data set."""

    @classmethod
    def of(cls, config: RunConfig) -> "Where":
        """Return where a run belongs."""
        return cls.of_row(config.to_dict())

    @classmethod
    def of_row(cls, row: Any) -> "Where":
        """Return where the row of a table belongs."""
        stages, blocks, epochs = (int(row[name]) for name in SETTING[2:])
        samples = None if pd.isna(row["samples"]) else int(row["samples"])
        return cls(data=str(row["data"]), samples=samples, stages=stages, blocks=blocks, epochs=epochs)

    def to_row(self) -> dict[str, Any]:
        """Return the columns that tell this setting from others."""
        return dict(zip(SETTING, astuple(self), strict=True))

    def __str__(self) -> str:
        if self == TOY:
            return "toy problem"
        some = f" ({self.samples:,})" if self.samples else ""
        stages, blocks = _count(self.stages, "stage"), _count(self.blocks, "block")
        epochs = f", {_count(self.epochs, 'epoch')}" if self.epochs else ""
        return f"{self.data}{some}, {stages} of {blocks}{epochs}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


SETTING = [field.name for field in fields(Where)]
"""The columns that tell one setting from another."""

TOY = Where(data="toy")
"""The toy problem of Fig. 1, which has no data set."""


def split(runs: pd.DataFrame) -> Iterator[tuple[Where, pd.DataFrame]]:
    """Split a table of runs by where they belong."""
    if len(runs):
        for _, own in runs.groupby(SETTING, dropna=False):
            yield Where.of_row(own.iloc[0]), own
