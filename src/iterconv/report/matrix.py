"""The matrix of claims and settings: each cell holds the findings about a claim in a setting."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from iterconv.claims.telling import describe, summarise, verdict_table
from iterconv.claims.verdicts import Cell as Judged
from iterconv.claims.verdicts import Judgement, Row
from iterconv.report.charts import INK, data, finish, rate_axis, tooltip
from iterconv.report.page import Plot, Section, Table, rows_of

VERDICTS = ("supported", "contradicted", "undecided")
_VIEWS: dict[int | str, tuple[str, dict[str, str]]] = {
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
    """The findings about a part of a claim in one setting."""

    anchor: str
    setting: str
    verdict: str
    findings: list[dict[str, str]]
    view: str
    choices: str


@dataclass(frozen=True, kw_only=True)
class PartRow:
    """A part of a claim with its cells, one for each setting; None where no runs are about it."""

    label: str
    statement: str
    section: str
    summary: str
    cells: list[Cell | None]


def make_matrix_section(
    judgements: Sequence[Judgement], settings: list[str]
) -> tuple[Section, dict[str, list[dict[str, Any]]], str]:
    """Make the section on claims.

    Args:
        judgements: The verdicts on claims.
        settings: The settings of runs, which the reader can choose.

    Returns:
        The section, the rows behind its plot, and the anchor of the cell that is open at first.
    """
    findings = verdict_table(list(judgements))
    columns = list(dict.fromkeys(findings["setting"])) if len(findings) else []
    rows = [_make_row(judgement, row, columns, settings) for judgement in judgements for row in judgement.rows]
    cells = [cell for row in rows for cell in row.cells if cell]
    section = Section(
        name="claims",
        title="The paper's claims",
        text="A row is a part of a claim, and a column is a setting. A cell is contradicted if one of its findings is, "
        "supported if all of them are, and otherwise undecided. Seeds are the units, what one claim says about one "
        "setting is corrected together (Holm), and bounds for words such as “close to” are ours.",
        special="matrix",
        content={"settings": columns, "rows": rows},
        plots=[
            Plot(
                name="findings",
                title="Effects of the findings above, by their numbers, with their intervals",
                chart=_chart_findings(),
                text="The same numbers stand in the list above and in the table of all findings.",
            )
        ],
        tables=[Table(name="findings", title="All findings", frame=findings, shown=SHOWN, folded=True)],
    )
    return section, {"findings": _plot_rows(findings, columns)}, cells[0].anchor if cells else ""


SHOWN = ["part", "setting", "statement", "verdict", "effect", "low", "high", "n", "p", "seeds_needed", "reason"]


def _plot_rows(findings: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Make the rows behind the plot, each with the anchor of its cell and its place there."""
    if findings.empty:
        return []
    anchors = [_anchor(part, columns.index(setting)) for part, setting in findings[["part", "setting"]].to_numpy()]
    places = findings.groupby(["part", "setting"], sort=False).cumcount() + 1
    kept = findings[["statement", "verdict", "effect", "low", "high", "n"]]
    return rows_of(kept.assign(cell=anchors, place=places.astype(str)))


def _anchor(label: str, column: int) -> str:
    return f"claim-{label}-{column + 1}"


def _make_row(judgement: Judgement, row: Row, columns: list[str], settings: list[str]) -> PartRow:
    own = {str(cell.setting): cell for cell in row.cells}
    return PartRow(
        label=row.label,
        statement=row.statement,
        section=judgement.claim.section,
        summary=summarise(row),
        cells=[_make_cell(judgement, row, own.get(name), columns, settings) for name in columns],
    )


def _make_cell(
    judgement: Judgement, row: Row, cell: Judged | None, columns: list[str], settings: list[str]
) -> Cell | None:
    if cell is None:
        return None
    setting = str(cell.setting)
    view, choices = _VIEWS.get(judgement.claim.number, ("coupling", {"kind": ""}))
    if setting in settings:
        choices = {"study": "", "width": "", "coupling": "", "seed": "", "setting": setting, **choices}
    return Cell(
        anchor=_anchor(row.label, columns.index(setting)),
        setting=setting,
        verdict=cell.verdict,
        findings=[{"verdict": finding.verdict, "text": describe(finding)} for finding in cell.findings],
        view=view if setting in settings or view == "toy" else "",
        choices=json.dumps(choices),
    )


def _chart_findings() -> Any:
    colour = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=VERDICTS, range=[f"var(--{verdict.replace(' ', '-')})" for verdict in VERDICTS]),
        legend=None,
    )
    chart = alt.Chart(data("findings")).transform_filter("datum.cell === chosen_cell && isValid(datum.effect)")
    y = alt.Y("place:N", title="finding", sort=None)
    tips = tooltip(
        finding="statement:N", effect="effect:Q|.3f", low="low:Q|.3f", high="high:Q|.3f", n="n:Q", verdict="verdict:N"
    )
    zero = chart.transform_aggregate(n="count()").mark_rule(strokeDash=[2, 3], color=INK).encode(x=alt.datum(0))
    bars = chart.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", axis=rate_axis("false", "effect")), x2="high:Q", y=y, color=colour, tooltip=tips
    )
    dots = chart.mark_point(filled=True, size=90, opacity=1).encode(x="effect:Q", y=y, color=colour, tooltip=tips)
    return finish(zero + bars + dots, 200)
