"""One self-contained HTML file in which a reader explores a result: controls, plots, tables, all from data frames.

A `Page` says what is on it. A new kind of result takes a function that makes a page of it, see
`iterconv.report.single`.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair
import pandas as pd
import vl_convert
from jinja2 import Environment

from iterconv.files import write_atomically, writing
from iterconv.report.charts import LOOKS

DIGITS = 4
"""The significant digits of numbers in a page. Tables that are kept as files have all of them."""

METRICS = {
    "error": "error",
    "disagreement": "disagreement with the unperturbed network",
    "cross_entropy": "cross-entropy (nats)",
    "distance": "distance to the final representation",
    "exact_error": "sets not exactly right",
}
"""The metrics of curves with their names, those first that a page keeps where there are too many points for all."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A choice of the reader. Every plot has a parameter ``chosen_<name>``, and rows of tables are chosen by it."""

    name: str
    label: str
    options: Mapping[str, str]
    """The labels of the options by their values; the value "" stands for all."""
    value: str = ""
    """The value at first."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A panel; its height is that of the chart, and its width that of the place where it stands."""

    name: str
    title: str
    chart: altair.TopLevelMixin
    text: str = ""
    """The plot in words, for those who do not see it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be sorted and downloaded."""

    name: str
    title: str
    frame: pd.DataFrame
    keys: Sequence[str] = ()
    """The columns that belong to controls of the same names; they are not shown unless they are in ``shown`` too."""
    shown: Sequence[str] | None = None
    """The columns to show; all others than ``keys`` by default."""
    links: str = ""
    """The beginning of the addresses to which the first column links; no links if empty."""
    folded: bool = False
    """True if the table is shown only when it is asked for."""

    @property
    def columns(self) -> list[str]:
        """The columns that are shown."""
        return list(self.frame.columns.difference(self.keys, sort=False) if self.shown is None else self.shown)

    @property
    def numeric(self) -> set[str]:
        """The columns that hold numbers."""
        return {column for column in self.columns if self.frame[column].dtype.kind in "iuf"}

    @property
    def rows(self) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
        """The rows: the values of the keys in JSON, and each cell as it is read and, if it is a number, sorted."""
        for row in self.frame.to_dict("records"):
            keys = {key: row[key] for key in self.keys}
            yield json.dumps(keys) if keys else "", [_show(row[column]) for column in self.columns]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page under a heading; its controls stay in sight while it is read."""

    name: str
    title: str
    text: str = ""
    controls: Sequence[Control] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    special: str = ""
    """The name of a macro of the template that draws something else than plots and tables, such as "matrix"."""
    content: Any = None
    """What that macro draws."""
    parts: Sequence["Section"] = ()
    """Sections below it, for which its controls stay in sight too."""

    def walk(self) -> Iterator["Section"]:
        """Yield the section and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report: what its file shows, and the data that its plots share."""

    title: str
    lead: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    data: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The rows behind the plots, by the name with which these refer to them."""
    signals: Mapping[str, str] = field(default_factory=dict)
    """Further choices, which links on the page make."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Constants that the expressions of the plots know by these names."""


def write_page(page: Page, path: Path) -> int:
    """Write a page to a file that needs nothing else, not even the network.

    Args:
        page: The page.
        path: The file, which appears whole or not at all.

    Returns:
        The size of the file in bytes.

    Raises:
        InputError: If the file can't be written.
    """
    contents = _render(page).encode()
    with writing(path):
        write_atomically(path, contents)
    return len(contents)


def _render(page: Page) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["slug"] = slug
    sections = [section for top in page.sections for section in top.walk()]
    chosen = {**page.signals, **{control.name: control.value for each in sections for control in each.controls}}
    params = {**page.params, **{f"chosen_{name}": value for name, value in chosen.items()}}
    scripts: dict[str, Any] = {
        f"plot-{plot.name}": _specify(plot, params, page.data) for section in sections for plot in section.plots
    }
    scripts |= {f"data-{name}": rows for name, rows in page.data.items()}
    return str(
        environment.from_string(_read("template.html")).render(
            page=page,
            style=_read("page.css"),
            vega=_vega(),
            script=_read("page.js"),
            data={name: _to_script(contents) for name, contents in scripts.items()},
        )
    )


def _specify(plot: Plot, params: Mapping[str, Any], data: Iterable[str]) -> dict[str, Any]:
    """Turn a chart into its specification, with the page's parameters and the names of the data it needs."""
    spec: dict[str, Any] = plot.chart.to_dict(validate=False)  # the tests do, which takes seconds
    text = json.dumps(spec)
    spec["config"] = LOOKS
    spec["params"] = [{"name": name, "value": value} for name, value in params.items()] + spec.get("params", [])
    spec["usermeta"] = {"data": [name for name in data if f'"name": "{name}"' in text]}
    return spec


def _read(name: str) -> str:
    return files("iterconv.report").joinpath(name).read_text()


@cache
def _vega() -> str:
    """The libraries Vega, Vega-Lite and Vega-Embed in one script, from vl-convert's own files."""
    return str(vl_convert.javascript_bundle()).replace("</script", "<\\/script")  # type: ignore[call-arg]


def _to_script(contents: Any) -> str:
    """Write JSON that may stand inside of a page: nothing in it ends the script."""
    return json.dumps(contents, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def compact(value: Any, digits: int = DIGITS) -> Any:
    """Return a number of few digits for JSON; None for what is no number, and other values as they are."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a table into rows of a page's data."""
    return [{str(key): compact(value) for key, value in row.items()} for row in frame.to_dict("records")]


def slug(text: object) -> str:
    """Turn words into one word for classes and anchors: letters, digits and dashes."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in str(text)).split())


def _show(value: Any) -> tuple[str, str | None]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value), None
    if isinstance(value, float) and math.isnan(value):
        return "", ""
    text = f"{value:.{DIGITS}g}" if isinstance(value, float) and abs(value) < 10**DIGITS else f"{value:.0f}"
    return text, repr(value)
