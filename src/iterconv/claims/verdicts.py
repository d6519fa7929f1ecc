"""Verdicts: a matrix of what claims say about settings, each cell supported, contradicted or undecided."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from iterconv.claims.claim import Claim, Kind
from iterconv.claims.claims import CLAIMS, OWN_CLAIMS
from iterconv.claims.compare import CONDITION, select
from iterconv.claims.correction import correct, first_decisions, looks
from iterconv.claims.findings import Finding, Verdict
from iterconv.studies.tables import Tables
from iterconv.studies.where import TOY, Where, split

_CONDITIONS: dict[Kind, list[str]] = {
    "runs": CONDITION,
    "prefix_nets": ["lacks", "init", "coupling"],
    "toy": ["kind"],
}
"""The columns that tell one condition from another within a setting, for each kind of networks."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What the runs of one setting say about one part of a claim."""

    setting: Where
    findings: list[Finding]
    """One or more, all of which have to hold."""

    @property
    def verdict(self) -> Verdict:
        """Contradicted if any finding is, supported if all are, and else undecided."""
        verdicts = {finding.verdict for finding in self.findings}
        return "contradicted" if "contradicted" in verdicts else "undecided" if "undecided" in verdicts else "supported"

    @property
    def deciding(self) -> Finding:
        """The finding on which the verdict hangs: the clearest contradiction, or the finding farthest from support."""
        own = [finding for finding in self.findings if finding.verdict == self.verdict]
        # What has no p-value is either exact, so as clear as can be, or not testable at all.
        clearest = sorted(own, key=lambda finding: finding.p if finding.testable else 2.0 * (not finding.exact))
        return clearest[0] if self.verdict == "contradicted" else clearest[-1]

    @property
    def needed(self) -> float:
        """The number of seeds that would decide every finding, see `Finding.needed`."""
        open_ones = [finding.needed for finding in self.findings if finding.verdict == "undecided"]
        # NaN, if nothing is known of one of them, is the largest for NumPy.
        return float(np.max(open_ones)) if self.verdict == "undecided" else math.nan


@dataclass(frozen=True, kw_only=True)
class Row:
    """A part of a claim, with a cell for each setting that has runs it is about."""

    label: str
    """The claim's number with the part's letter, as 4a."""
    statement: str
    cells: list[Cell]

    def where(self, verdict: Verdict) -> list[str]:
        """List the settings in which the verdict is this one."""
        return [str(cell.setting) for cell in self.cells if cell.verdict == verdict]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The rows of a claim."""

    claim: Claim
    rows: list[Row]

    @property
    def findings(self) -> list[Finding]:
        """All findings, row by row."""
        return [finding for row in self.rows for cell in row.cells for finding in cell.findings]


def judge(claim: Claim, tables: Tables) -> Judgement:
    """Judge a claim in every setting that has runs it is about.

    Choice: the family that Holm's procedure corrects is all that one claim says about one setting, so that the chance
    of any wrong decision among these findings is at most 5%. Settings are not corrected for one another, since each is
    a question of its own, whose answer must not change when another data set is added. Where seeds were added because
    of what was seen (``tables.looks``), the levels are those of `looks`.

    Runs of one seed share data order and initial weights and count as one unit.

    Args:
        claim: One of ``CLAIMS``.
        tables: The tables of finished runs of any studies.

    Returns:
        The judgement; a part has no cell for a setting without a single run to compare.
    """
    return _judge(claim, list(_settings(tables)))


def judge_all(tables: Tables) -> list[Judgement]:
    """Judge the paper's claims, in its order, and then our own if there are networks that these are about."""
    settings = list(_settings(tables))
    own = {claim.kind for claim in OWN_CLAIMS}
    kinds = {kind for kind, _, _ in settings}
    claims = (*(CLAIMS if kinds - own or not kinds else ()), *(claim for claim in OWN_CLAIMS if claim.kind in kinds))
    return [_judge(claim, settings) for claim in claims]


def _settings(tables: Tables) -> Iterator[tuple[Kind, Where, Tables]]:
    """Yield the settings that have networks of a kind, with their own tables."""
    kinds: tuple[Kind, ...] = ("runs", "prefix_nets")
    for kind in kinds:
        for setting, own in split(getattr(tables, kind)):
            yield kind, setting, tables.named(own["name"])
    if len(tables.toy):
        yield "toy", TOY, tables


def _judge(claim: Claim, settings: list[tuple[Kind, Where, Tables]]) -> Judgement:
    cells: dict[str, list[Cell]] = {part: [] for part in claim.parts}
    for kind, setting, own in settings:
        findings = find(claim, own, setting) if kind == claim.kind else []
        for part in claim.parts:
            mine = [replace(finding, setting=setting) for finding in findings if finding.part == part]
            if any(finding.n or finding.reason for finding in mine):
                cells[part].append(Cell(setting=setting, findings=mine))
    rows = [Row(label=claim.label(part), statement=claim.parts[part], cells=own) for part, own in cells.items()]
    return Judgement(claim=claim, rows=rows)


def find(claim: Claim, tables: Tables, setting: Where) -> list[Finding]:
    """Find what the runs of one setting say about a claim, and correct the findings for one another.

    Args:
        claim: The claim.
        tables: The tables of the setting's runs.
        setting: The setting.

    Returns:
        The findings, judged.
    """
    own = about(claim, tables)
    looked = {str(row["claim"]): row for row in tables.looks.to_dict("records") if Where.of_row(row) == setting}
    if str(claim.number) in looked:
        return _find_repeatedly(claim, own, looks(int(looked[str(claim.number)]["most"])))
    if looked:  # seeds that were added for what another claim showed are not chosen independently of this one
        own = _first(own, min(int(row["seeds"]) for row in looked.values()))
    return correct(_find(claim, own))


def _find_repeatedly(claim: Claim, tables: Tables, plan: list[tuple[int, float]]) -> list[Finding]:
    complete = complete_seeds(claim, tables)
    taken = [(seeds, level) for seeds, level in plan if seeds <= complete]
    if not taken:
        first, level = plan[0]
        found = correct(_find(claim, tables), level)
        return [replace(f, reason=f"the first look is at {first} seeds") if f.testable else f for f in found]
    return first_decisions([_find(claim, _first(tables, seeds)) for seeds, _ in taken], [level for _, level in taken])


def _find(claim: Claim, tables: Tables) -> list[Finding]:
    return list(claim.find(tables)) if len(getattr(tables, claim.kind)) else []


def about(claim: Claim, tables: Tables) -> Tables:
    """Select the networks that a claim is about; the other tables keep the rows of all networks."""
    if claim.kind == "toy":
        return tables
    return replace(tables, **{claim.kind: select(getattr(tables, claim.kind), **claim.about)})


def complete_seeds(claim: Claim, tables: Tables) -> int:
    """Count the seeds, from 0, that all conditions have of the runs that a claim is about.

    Args:
        claim: The claim.
        tables: The tables of the runs of one setting that it is about.

    Returns:
        The number.
    """
    table = getattr(tables, claim.kind)
    if claim.kind == "toy" and len(table):
        table = table[table["kind"] != "exact"]  # which has no seed
    if table.empty:
        return 0
    return min(_first_gap(set(own["seed"])) for _, own in table.groupby(_CONDITIONS[claim.kind]))


def _first_gap(seeds: set[int]) -> int:
    return next(number for number in range(len(seeds) + 1) if number not in seeds)


def _first(tables: Tables, seeds: int) -> Tables:
    own = {kind: getattr(tables, kind) for kind in _CONDITIONS}
    return replace(tables, **{kind: table[table["seed"] < seeds] for kind, table in own.items() if len(table)})


def scale_of(tables: Tables) -> str:
    """Say in one line how large the experiments behind tables are."""
    parts = [
        f"{setting}: widths {', '.join(str(width) for width in sorted(own['width'].unique()))}, "
        f"{own['seed'].nunique()} seeds, {len(own)} runs"
        for setting, own in split(tables.runs)
    ]
    if not tables.toy.empty:
        parts.append(f"toy networks: {tables.toy['seed'].nunique()} seeds")
    parts += [
        f"{setting}: {own['seed'].nunique()} seeds, {len(own)} nets" for setting, own in split(tables.prefix_nets)
    ]
    return "; ".join(parts)
