"""Sweeps: grids of runs that users write down in a small file."""

import io
import re
import warnings
from collections import Counter
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.errors import InputError, line_of, require, suggest
from iterconv.files import read
from iterconv.training.config import RunConfig

FIELDS = tuple(field.name for field in fields(RunConfig))

RESULTS = ("test_error", "test_examples", "chance")
"""Columns that every table of results has."""

MOST_BYTES = 2**20
"""The largest size of a file that describes a sweep."""

MOST_RUNS = 100_000
"""The largest number of runs of a sweep."""


def read_sweep(path: Path) -> list[RunConfig]:
    """Read the runs that a file describes.

    Args:
        path: A YAML file whose entries are fields of `RunConfig`, each with a value or with a list of values, of which
            every combination is a run; a list of such mappings makes the runs of all of them. Or a CSV file with one
            run a row, whose columns are fields; an empty cell leaves the field at its default. The table of results
            that a sweep writes is such a file too.

    Returns:
        The different runs, in the order of the file.

    Raises:
        InputError: If the file is missing or not understood, a field is unknown, or a value does not fit.
    """
    contents = read(path, "write it anew", MOST_BYTES)
    if contents is None:
        raise InputError(f"there is no file {path}; name a YAML or CSV file of runs")
    if path.suffix == ".csv":
        blocks = _read_csv(path, contents)
    elif path.suffix in (".yaml", ".yml"):
        blocks = _read_yaml(path, contents)
    else:
        raise InputError(f"{path} does not name a table of runs; let it end in .yaml or .csv")
    runs: dict[RunConfig, None] = {}
    for number, block in enumerate(blocks, start=1):
        for run in _combine(path, number, block):
            runs[run] = None
            if len(runs) > MOST_RUNS:
                raise InputError(f"{path} describes more than {MOST_RUNS} runs; use fewer values")
    if not runs:
        raise InputError(f"{path} describes no run; give it fields of a run, as width: [8, 16]")
    return list(runs)


def _read_csv(path: Path, contents: bytes) -> list[dict[str, Any]]:
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            # Where rows are longer than the header, pandas would else take their first cells for names of the rows.
            table = pd.read_csv(io.BytesIO(contents), index_col=False)
    except (ValueError, pd.errors.ParserWarning) as problem:  # pandas' own errors are values' errors
        raise InputError(f"{path} is not a table ({line_of(problem)}); write one run a row") from None
    names = None
    if {"name", *RESULTS} <= {*table.columns}:  # the table of an earlier sweep: what came out is no option
        names, table = table["name"], table[[name for name in table.columns if name in FIELDS]]
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    # pandas reads whole numbers as floats where cells of the column are empty.
    tidy = [{str(name): _whole(value) for name, value in row.items() if value is not None} for row in rows]
    for number, row in enumerate(tidy, start=1):
        if not row:
            raise InputError(f"{path}, entry {number}: the row is empty; delete it")
        if names is not None and _combine(path, number, row)[0].name != names[number - 1]:
            raise InputError(
                f"{path}, entry {number} is not {names[number - 1]}; use the file that described the sweep"
            )
    return tidy


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_yaml(path: Path, contents: bytes) -> list[dict[str, Any]]:
    yaml = require("yaml", "reading sweeps")
    try:
        found = yaml.load(contents, _loader(yaml))
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise InputError(f"{path} is not YAML ({line_of(problem)}); write fields, as width: [8, 16]") from None
    blocks = found if isinstance(found, list) else [found]
    if not all(isinstance(block, dict) for block in blocks):
        raise InputError(f"{path} holds something else than fields of runs; write them as width: [8, 16]")
    return blocks


def _loader(yaml: Any) -> Any:
    """Make a loader for which 1e-3 is a number, as everywhere else, and that refuses a name that is there twice."""
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    exponent = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    loader.add_constructor("tag:yaml.org,2002:map", _mapping)
    return loader


def _mapping(loader: Any, node: Any) -> dict[Any, Any]:
    for name, count in Counter(str(key.value) for key, _ in node.value).items():
        if count > 1:  # of which the last one would win without a word
            raise ValueError(f"{name!r} is there twice")
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return mapping


def _combine(path: Path, number: int, block: dict[Any, Any]) -> list[RunConfig]:
    """Make every combination of a block's values."""
    for name in block:
        if name not in FIELDS:
            raise InputError(f"{path}: a run has no field {str(name)[:40]!r}; {suggest(str(name), FIELDS)}")
        if block[name] == []:
            raise InputError(f"{path}, entry {number}: {name} has no value; give it one, or leave it out")
    choices = [value if isinstance(value, list) else [value] for value in block.values()]
    size = 1
    for values in choices:
        size *= len(values)
    if size > MOST_RUNS:
        raise InputError(f"{path} describes more than {MOST_RUNS} runs; use fewer values")
    runs = []
    for chosen in product(*choices):
        try:
            runs.append(RunConfig.from_dict(dict(zip(block, chosen, strict=True))))
        except InputError as problem:
            raise InputError(f"{path}, entry {number}: {problem}") from None
    return runs


def varied_fields(runs: list[RunConfig]) -> list[str]:
    """List the fields in which runs differ."""
    return [name for name in FIELDS if len(Counter(getattr(run, name) for run in runs)) > 1]
