"""Verdicts on claims: supported, contradicted or not testable with a set of runs."""

from dataclasses import dataclass, fields

import pandas as pd

from iterconv.claims.claim import Claim
from iterconv.claims.claims import CLAIMS, OWN_CLAIMS
from iterconv.claims.compare import settings_of
from iterconv.claims.findings import Finding, Verdict, not_testable
from iterconv.studies.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on a claim, with the findings from which it follows."""

    claim: Claim
    verdict: Verdict
    findings: list[Finding]


def judge(claim: Claim, tables: Tables) -> Judgement:
    """Test one claim.

    Choice: the rules are ours.

    1. A *part* of a claim is a statement about networks, with one finding for each setting that has such networks.
    2. A part is contradicted if any setting contradicts it.
    3. A part is supported if at least one setting supports it and none contradicts it. Settings whose runs are too few
       or too scattered to decide do not count.
    4. A claim marked ``everywhere`` counts each setting as a part of its own, so that all of them have to support it.
    5. The claim is contradicted if any part is, supported if all parts are, and otherwise not testable.

    Runs of one seed share data order and initial weights and count as one unit. No correction is made for the number
    of findings.

    Args:
        claim: One of ``CLAIMS``.
        tables: The tables of finished runs of any studies.

    Returns:
        The judgement, with a reason for each finding that is not testable.
    """
    findings = list(claim.find(tables)) or [not_testable(claim.statement, "none of the runs that it is about is here")]
    parts: dict[str, set[Verdict]] = {}
    for finding in findings:
        parts.setdefault(finding.statement if claim.everywhere else finding.part, set()).add(finding.verdict)
    verdict: Verdict = "not testable"
    # Contradictions come first: a claim with one wrong part is wrong.
    if any("contradicted" in verdicts for verdicts in parts.values()):
        verdict = "contradicted"
    elif all("supported" in verdicts for verdicts in parts.values()):
        verdict = "supported"
    return Judgement(claim=claim, verdict=verdict, findings=findings)


def judge_all(tables: Tables) -> list[Judgement]:
    """Judge the paper's claims, in its order, and then our own; those that no table is about are left out."""
    paper = CLAIMS if len(tables.runs) or len(tables.toy) else ()
    return [judge(claim, tables) for claim in (*paper, *(OWN_CLAIMS if len(tables.prefix) else ()))]


def scale_of(tables: Tables) -> str:
    """Say in one line how large the experiments behind tables are."""
    parts = [
        f"{name}: widths {', '.join(str(width) for width in sorted(own['width'].unique()))}, "
        f"{own['seed'].nunique()} seeds, {own['epochs'].iloc[0]} epochs, {len(own)} runs"
        for name, own in settings_of(tables.runs)
    ]
    if not tables.toy.empty:
        parts.append(f"toy networks: {tables.toy['seed'].nunique()} seeds")
    if not tables.prefix_nets.empty:
        parts.append(f"prefix sums: {tables.prefix_nets['seed'].nunique()} seeds, {len(tables.prefix_nets)} nets")
    return "; ".join(parts)


def verdict_table(judgements: list[Judgement]) -> pd.DataFrame:
    """Make a table with one row a finding: the claim's number and verdict, then the finding's own fields."""
    return pd.DataFrame(
        [
            {
                "claim": judgement.claim.number,
                "claim_verdict": judgement.verdict,
                **{field.name: getattr(finding, field.name) for field in fields(Finding)},
            }
            for judgement in judgements
            for finding in judgement.findings
        ]
    )


def describe(finding: Finding) -> str:
    """Say a finding in one line: statement, effect with interval and n, or the reason why there is none."""
    text = finding.statement
    if pd.notna(finding.effect):
        text += f": {finding.effect:.3f}"
        if pd.notna(finding.low) and finding.low < finding.high:
            text += f" [{finding.low:.3f}, {finding.high:.3f}]"
        text += f", n = {finding.n}"
    return text + (f" ({finding.reason})" if finding.reason else "")
