"""Verdicts as text, as tables and as plain objects."""

import math
from typing import Any

import pandas as pd

from iterconv.claims.findings import Finding
from iterconv.claims.power import MOST
from iterconv.claims.verdicts import Cell, Judgement, Row


def verdict_table(judgements: list[Judgement]) -> pd.DataFrame:
    """Make a table with one row a finding: the claim's part, the setting, the cell's verdict, and the finding."""
    return pd.DataFrame(
        [
            {
                "claim": judgement.claim.number,
                "part": row.label,
                "part_statement": row.statement,
                "setting": str(cell.setting),
                **cell.setting.to_row(),
                "cell_verdict": cell.verdict,
                "cell_seeds_needed": cell.needed,
                **_plain(finding),
            }
            for judgement in judgements
            for row in judgement.rows
            for cell in row.cells
            for finding in cell.findings
        ]
    )


def _plain(finding: Finding) -> dict[str, Any]:
    low, high = finding.interval
    return {
        "statement": finding.statement,
        "verdict": finding.verdict,
        "effect": finding.effect,
        "low": low,
        "high": high,
        "confidence": 1 - finding.level if finding.testable else math.nan,
        "n": finding.n,
        "p": finding.p,
        "seeds_needed": finding.needed,
        "reason": finding.why,
        "explanation": finding.explanation,
    }


def to_records(judgements: list[Judgement]) -> list[dict[str, Any]]:
    """Turn the matrix into plain objects for JSON, one a cell, with its findings.

    Numbers that are not defined are None. So is the number of seeds needed if it is out of reach, which ``reason``
    tells.
    """
    return [
        {
            "claim": judgement.claim.number,
            "part": row.label,
            "part_statement": row.statement,
            "setting": {"name": str(cell.setting), **cell.setting.to_row()},
            "verdict": cell.verdict,
            "seeds_needed": _finite(cell.needed),
            "effect": _finite(cell.deciding.effect),
            "low": _finite(cell.deciding.interval[0]),
            "high": _finite(cell.deciding.interval[1]),
            "n": cell.deciding.n,
            "findings": [{key: _finite(value) for key, value in _plain(finding).items()} for finding in cell.findings],
        }
        for judgement in judgements
        for row in judgement.rows
        for cell in row.cells
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarise(row: Row) -> str:
    """Say in one line where a part of a claim holds, where not, and where that is not known."""
    if not row.cells:
        return "no run here is about it"
    parts = [
        ("holds", row.where("supported")),
        ("does not hold", row.where("contradicted")),
        ("undecided", row.where("undecided")),
    ]
    return "; ".join(f"{what}: {' | '.join(settings)}" for what, settings in parts if settings)


def describe(finding: Finding) -> str:
    """Say a finding in one line: statement, effect with interval and n, and what else has to be known."""
    text = finding.statement
    if pd.notna(finding.effect):
        text += f": {finding.effect:.3f}"
        low, high = finding.interval
        if low < high:
            text += f" [{low:.3f}, {high:.3f}]"
        text += f", n = {finding.n}"
        if finding.testable:
            text += f", p = {finding.p:.2g} at level {finding.level:.2g}"
    notes = [note for note in (finding.why, say_needed(finding.needed), finding.explanation) if note]
    return text + (f" ({'; '.join(notes)})" if notes else "")


def say_needed(seeds: float) -> str:
    """Say how many seeds would decide; nothing where that is not known."""
    if math.isnan(seeds):
        return ""
    return f"about {seeds:.0f} seeds would" if math.isfinite(seeds) else f"more than {MOST:,} seeds would be needed"


def describe_cell(cell: Cell) -> str:
    """Say the findings of a cell in one line each."""
    return "\n".join(f"{finding.verdict}: {describe(finding)}" for finding in cell.findings)
