"""The matrix of claims and settings: each cell holds the findings about a claim in a setting."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from iterconv.claims.claims import CLAIMS
from iterconv.claims.verdicts import Judgement
from iterconv.report.charts import INK, data, finish, rate_axis, tooltip
from iterconv.report.page import Plot, Section, Table, rows_of

COLUMNS = ["claim", "part", "setting", "verdict", "effect", "low", "high", "n", "reason"]
VERDICTS = ("supported", "contradicted", "undecided", "not testable")
EVERYWHERE = "any setting"
"""The setting of findings that are about none in particular."""
_VIEWS: dict[int, tuple[str, dict[str, str]]] = {
    **dict.fromkeys((1, 2), ("toy", {})),
    3: ("curves", {"colour": "stage", "coupling": "0 non-rec.", "kind": "ordinary"}),
    4: ("coupling", {"kind": "ordinary"}),
    5: ("coupling", {"colour": "width", "kind": "ordinary"}),
    9: ("scatter", {"x": "convergence", "y": "test_error", "colour": "width"}),
    11: ("curves", {"metric": "disagreement", "kind": "ordinary"}),
    12: ("coupling", {"kind": "ordinary"}),
}
"""The plots behind the claims, by number: a part of the report, and choices of the reader. Others show all kinds."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The findings about a claim in one setting."""

    anchor: str
    setting: str
    verdict: str
    findings: list[dict[str, str]]
    view: str
    choices: str


def findings_of(judgements: Iterable[Judgement]) -> pd.DataFrame:
    """Make one row a finding.

    Args:
        judgements: The verdicts on claims.

    Returns:
        A table with the columns ``COLUMNS``.
    """
    rows = []
    for judgement in judgements:
        for finding in judgement.findings:
            setting, found, part = finding.statement.partition(": ")
            row = {name: getattr(finding, name) for name in ("verdict", "effect", "low", "high", "n", "reason")}
            named = {"part": part, "setting": setting} if found else {"part": setting, "setting": EVERYWHERE}
            rows.append({"claim": judgement.claim.number, **named, **row})
    return pd.DataFrame(rows, columns=COLUMNS)


def make_matrix_section(
    findings: pd.DataFrame, overall: dict[int, str], settings: list[str]
) -> tuple[Section, dict[str, list[dict[str, Any]]], str]:
    """Make the section on claims.

    Args:
        findings: A table with the columns ``COLUMNS``.
        overall: The verdict on each claim, by its number.
        settings: The settings of runs, which the reader can choose.

    Returns:
        The section, the rows behind its plot, and the anchor of the cell that is open at first.
    """
    columns = list(dict.fromkeys(findings["setting"]))
    cells = {key: _make_cell(key, own, columns, settings) for key, own in findings.groupby(["claim", "setting"])}
    claims = [
        {
            **{"number": claim.number, "statement": claim.statement, "section": claim.section},
            **{"verdict": overall[claim.number], "cells": [cells.get((claim.number, name)) for name in columns]},
        }
        for claim in CLAIMS
        if claim.number in overall
    ]
    anchors = [cells[key].anchor for key in zip(findings["claim"], findings["setting"], strict=True)]
    places = findings.groupby(["claim", "setting"], sort=False).cumcount() + 1
    rows = findings.assign(cell=anchors, place=places.astype(str))
    section = Section(
        name="claims",
        title="The paper's claims",
        text="A cell is contradicted if one of its findings is, supported if all of them are, and otherwise not "
        "decided by these runs. Intervals hold 95%, seeds are the units, and bounds for words such as “close to” are "
        "ours.",
        special="matrix",
        content={"settings": columns, "rows": claims},
        plots=[
            Plot(
                name="findings",
                title="Effects of the findings above, by their numbers, with 95% intervals",
                chart=_chart_findings(),
                text="The same numbers stand in the list above and in the table of all findings.",
            )
        ],
        tables=[Table(name="findings", title="All findings", frame=findings, folded=True)],
    )
    return section, {"findings": rows_of(rows.drop(columns=["claim", "setting", "reason"]))}, anchors[0]


def _make_cell(key: Any, own: pd.DataFrame, columns: list[str], settings: list[str]) -> Cell:
    claim, setting = key
    view, choices = _VIEWS.get(claim, ("coupling", {"kind": ""}))
    if setting in settings:
        choices = {"study": "", "width": "", "coupling": "", "seed": "", "setting": setting, **choices}
    return Cell(
        anchor=f"claim-{claim}-{columns.index(setting) + 1}",
        setting=setting,
        verdict=judge_cell(own["verdict"]),
        findings=[{"verdict": row["verdict"], "text": _describe(row)} for row in own.to_dict("records")],
        view=view if setting in settings or view == "toy" else "",
        choices=json.dumps(choices),
    )


def judge_cell(verdicts: Iterable[str]) -> str:
    """Sum up verdicts on parts: contradicted if any part is, supported if all are, else what the rest says."""
    found = set(verdicts)
    if "contradicted" in found or len(found) == 1:
        return "contradicted" if "contradicted" in found else found.pop()
    return next(iter(sorted(found - {"supported"}, key=VERDICTS.index)))


def _describe(row: dict[str, Any]) -> str:
    text = row["part"]
    if not math.isnan(row["effect"]):
        text += f": {row['effect']:.3f}"
        text += f" [{row['low']:.3f}, {row['high']:.3f}]" if row["low"] < row["high"] else ""
        text += f", n = {row['n']}"
    return text + (f" ({row['reason']})" if row["reason"] else "")


def _chart_findings() -> Any:
    colour = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=VERDICTS, range=[f"var(--{verdict.replace(' ', '-')})" for verdict in VERDICTS]),
        legend=None,
    )
    chart = alt.Chart(data("findings")).transform_filter("datum.cell === chosen_cell && isValid(datum.effect)")
    y = alt.Y("place:N", title="finding", sort=None)
    tips = tooltip(
        finding="part:N", effect="effect:Q|.3f", low="low:Q|.3f", high="high:Q|.3f", n="n:Q", verdict="verdict:N"
    )
    zero = chart.transform_aggregate(n="count()").mark_rule(strokeDash=[2, 3], color=INK).encode(x=alt.datum(0))
    bars = chart.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", axis=rate_axis("false", "effect")), x2="high:Q", y=y, color=colour, tooltip=tips
    )
    dots = chart.mark_point(filled=True, size=90, opacity=1).encode(x="effect:Q", y=y, color=colour, tooltip=tips)
    return finish(zero + bars + dots, 200)
