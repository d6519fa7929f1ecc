"""Runs that a figure may compare, and what its caption says of them: data, architecture, training, n, seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from iterconv.data.known import KNOWN
from iterconv.studies.jobs import CONFIG
from iterconv.studies.tables import Tables
from iterconv.studies.where import Where

_SHOWN = ("residual", "init", "coupling", "kernel", "first_coupled", "norm_scale", "width", "seed")
"""The fields of a run that figures tell apart; runs that differ in others are not drawn together."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in nothing but what a figure shows."""

    label: str
    """The data, architecture and length of training, and what else tells the group from others."""
    tables: Tables

    def select(self, **values: object) -> "Group":
        """Return the part with these values in columns of the table of runs."""
        runs = self.tables.runs
        for column, value in values.items():
            runs = runs[runs[column] == value]
        return replace(self, tables=self.tables.named(runs["name"]))

    def widths(self) -> Iterator[tuple[int, "Group"]]:
        """Yield each width with its part."""
        for width in sorted(self.tables.runs["width"].unique()):
            yield int(width), self.select(width=width)

    @property
    def caption(self) -> str:
        """The sentence of a caption about the runs."""
        return describe(self.tables.runs, self.label)


def group_runs(tables: Tables) -> list[Group]:
    """Divide runs into those that a figure may compare, in the order in which they come.

    Args:
        tables: The tables of any runs.

    Returns:
        The groups, whose labels differ.
    """
    runs = tables.runs
    if runs.empty:
        return []
    columns = [name for name in CONFIG if name in runs and name not in _SHOWN]
    parts = [own for _, own in runs.groupby(columns, dropna=False, sort=False)]
    labels = [_label(own) for own in parts]
    groups = []
    for own, label in zip(parts, labels, strict=True):
        same = pd.concat([part for part, name in zip(parts, labels, strict=True) if name == label])
        others = [name for name in columns if same[name].nunique(dropna=False) > 1]
        label = ", ".join([label, *(f"{name.replace('_', ' ')} {own[name].iloc[0]}" for name in others)])
        groups.append(Group(label=label, tables=tables.named(own["name"])))
    return groups


def _label(runs: pd.DataFrame) -> str:
    where = Where.of_row(runs.iloc[0])
    return str(replace(where, data=KNOWN[where.data].title if where.data in KNOWN else where.data))


def describe(runs: pd.DataFrame, label: str) -> str:
    """Write the sentence of a caption about runs.

    Args:
        runs: ``Tables.runs`` of them.
        label: The data, architecture and length of training.

    Returns:
        The sentence, with the numbers of networks and of seeds.
    """
    parts = [label, f"width{'s' * (runs['width'].nunique() > 1)} {_list(runs['width'])}"]
    if {"lr", "batch_size"} <= set(runs):
        parts.append(f"learning rate {_list(runs['lr'])} and batches of {_list(runs['batch_size'])}")
    parts.append(count_networks(len(runs), runs.groupby(list(_SHOWN[:-1]))["seed"].nunique()))
    if "test_examples" in runs:
        parts.append(f"errors on {_list(runs['test_examples'])} test images")
    return "; ".join(parts) + "."


def count_networks(networks: int, seeds: "pd.Series[Any]") -> str:
    """Write the number of networks, and the least and largest number of seeds of a condition."""
    low, high = int(seeds.min()), int(seeds.max())
    words = f"{low} to {high} seeds" if low < high else f"{high} seed{'s' * (high > 1)}"
    return f"{networks} network{'s' * (networks > 1)}, with {words} in each condition"


def _list(values: "pd.Series[Any]") -> str:
    """Write the values that there are, in their order: 8, 16 and 32."""
    *first, last = [f"{value:,g}" if value < 1e6 else f"{value:,.0f}" for value in sorted(set(values))]
    return f"{', '.join(first)} and {last}" if first else last
