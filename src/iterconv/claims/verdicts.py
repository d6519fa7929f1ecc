"""From claims to verdicts: which the runs support, which they contradict, which they can't test."""

from dataclasses import dataclass, fields

import pandas as pd

from iterconv.claims.claims import CLAIMS, Claim
from iterconv.claims.findings import Finding, Verdict, missing, settings_of
from iterconv.studies.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a set of runs says about a claim."""

    claim: Claim
    verdict: Verdict
    findings: list[Finding]


def judge(claim: Claim, tables: Tables) -> Judgement:
    """Test one claim.

    Choice: claims are general statements. Each of their parts (a finding, whatever the setting) is contradicted if
    one setting contradicts it, and supported if one does support it and none contradicts; settings with too few or too
    scattered runs to decide don't count, save for claims about every setting, of which each has to support them. A
    claim is contradicted if one part is, supported if all are, and otherwise not testable with these runs. Runs of one
    seed share data order and initial weights and count as one unit. No correction is made for how many findings there
    are.

    Args:
        claim: One of ``CLAIMS``.
        tables: Finished runs of any studies.

    Returns:
        The judgement, with a reason for each finding that is not testable.
    """
    findings = list(claim.find(tables)) or [missing(claim.statement, "none of the runs that it is about is here")]
    parts: dict[str, set[Verdict]] = {}
    for finding in findings:
        parts.setdefault(finding.statement if claim.everywhere else finding.part, set()).add(finding.verdict)
    verdict: Verdict = "not testable"
    if any("contradicted" in verdicts for verdicts in parts.values()):
        verdict = "contradicted"
    elif all("supported" in verdicts for verdicts in parts.values()):
        verdict = "supported"
    return Judgement(claim=claim, verdict=verdict, findings=findings)


def judge_all(tables: Tables) -> list[Judgement]:
    """Every claim, in the paper's order."""
    return [judge(claim, tables) for claim in CLAIMS]


def scale_of(tables: Tables) -> str:
    """How large the experiments behind tables are, in one line."""
    parts = [
        f"{name}: widths {', '.join(str(width) for width in sorted(own['width'].unique()))}, "
        f"{own['seed'].nunique()} seeds, {own['epochs'].iloc[0]} epochs, {len(own)} runs"
        for name, own in settings_of(tables.runs)
    ]
    if not tables.toy.empty:
        parts.append(f"toy networks: {tables.toy['seed'].nunique()} seeds")
    return "; ".join(parts)


def verdict_table(judgements: list[Judgement]) -> pd.DataFrame:
    """One row a finding: the claim's number and verdict, then the finding's own fields."""
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
    """A finding in one line: statement, effect with interval and n, or why there is none."""
    text = finding.statement
    if pd.notna(finding.effect):
        text += f": {finding.effect:.3f}"
        if pd.notna(finding.low) and finding.low < finding.high:
            text += f" [{finding.low:.3f}, {finding.high:.3f}]"
        text += f", n = {finding.n}"
    return text + (f" ({finding.reason})" if finding.reason else "")
