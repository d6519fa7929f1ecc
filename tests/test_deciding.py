"""Levels, numbers of seeds and repeated looks: against oracles, known numbers and simulation."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from iterconv.claims.claims import CLAIMS
from iterconv.claims.correction import correct, first_decisions, holm_levels, looks
from iterconv.claims.findings import alike_or_worse, between, correlation
from iterconv.claims.power import power_of, seeds_needed
from iterconv.claims.verdicts import judge
from iterconv.studies.tables import Tables
from iterconv.studies.where import Where
from iterconv.training.config import RunConfig

pytestmark = pytest.mark.medium

MOST = 24


def closed_testing(p, alpha):
    """Reject what is in no intersection that Bonferroni's test keeps: the definition of which Holm's is a shortcut."""
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
    kept = [s for s in sets if min(p[i] for i in s) > alpha / len(s)]
    return [not any(i in s for s in kept) for i in range(len(p))]


def test_holm_is_the_closed_test_of_bonferroni():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = list(rng.random(rng.integers(1, 6)) ** 3)
        levels = holm_levels(p, 0.1)
        assert [own <= level for own, level in zip(p, levels, strict=True)] == closed_testing(p, 0.1)
    # Holm 1979 as it is usually shown: 0.01 <= 0.05 / 4, 0.02 > 0.05 / 3, and there it ends.
    assert holm_levels([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3])
    assert holm_levels([0.01, 0.04]) == [0.025, 0.05] and holm_levels([]) == []


@pytest.mark.parametrize("bounds", [{"low": 0.0}, {"high": 0.3}, {"low": 0.1, "high": 0.5}])
def test_p_values_belong_to_the_intervals(bounds):
    rng = np.random.default_rng(1)
    for _ in range(40):
        values = rng.normal(rng.uniform(-0.5, 0.8), 0.3, rng.integers(2, 9))
        finding = between("", "", values, **bounds)
        for level in (1e-3, 0.01, 0.05, 0.3):
            at = replace(finding, level=level)
            assert (at.verdict != "undecided") == (finding.p <= level)
            expected = stats.ttest_1samp(values, 0).confidence_interval(1 - level)
            assert at.interval == pytest.approx(tuple(expected))
    one_sided = stats.ttest_1samp([0.1, 0.2, 0.4], 0, alternative="greater").pvalue
    assert between("", "", [0.1, 0.2, 0.4], low=0).p == pytest.approx(2 * one_sided)


def test_p_values_of_tolerance_and_of_correlations_belong_to_them_too():
    rng = np.random.default_rng(2)
    for _ in range(30):
        changes = pd.Series(rng.normal(rng.uniform(-0.1, 0.1), 0.03, 4))
        table = pd.DataFrame({"seed": np.repeat(range(4), 6), "a": rng.random(24)})
        table["b"] = rng.uniform(-1, 1) * table["a"] + 0.3 * rng.random(24)
        for finding in (alike_or_worse("", "", changes, 0.5), correlation("", "", table, "a", "b", low=0.2, high=0.9)):
            for level in (0.01, 0.05, 0.3):
                assert (replace(finding, level=level).verdict != "undecided") == (finding.p <= level)


def test_a_family_is_corrected_and_what_has_no_interval_is_left_out():
    clear, weak = [1.0, 1.1, 0.9, 1.0], [0.1, 0.5, 0.4, 0.7]
    alone = between("", "weak", weak, low=0)
    assert alone.verdict == "supported" and 0.025 < alone.p < 0.05
    assert [f.verdict for f in correct([alone, between("", "clear", clear, low=0)])] == ["supported"] * 2, "Holm"
    three = correct([alone, between("", "other", [-1, 1, -0.5, 0.6], low=0), between("", "clear", clear, low=0)])
    assert [f.verdict for f in three] == ["undecided", "undecided", "supported"]
    assert three[0].interval[0] < 0 < three[2].interval[0]
    assert correct([alone, between("", "one seed", [1.0], low=0)])[0].verdict == "supported"


def test_the_number_of_seeds_is_that_of_students_power():
    # The t test of one sample with effect size 0.5 at 5%, two-sided, power 0.8: 34; of size 0.2: 199 (G*Power).
    assert seeds_needed([0.5], 0.05) == 34 and seeds_needed([0.2], 0.05) == 199
    assert seeds_needed([0.5, math.inf], 0.05) == 34
    assert seeds_needed([0.01], 0.05) == seeds_needed([-0.5], 0.05) == seeds_needed([math.inf], 0.05) == math.inf
    assert seeds_needed([100.0], 1e-3) <= 4
    rng = np.random.default_rng(0)
    for distances, level, n in (([0.8, math.inf], 0.01, 12), ([1.2, 1.0], 0.05, 14)):
        values = rng.standard_normal((20_000, n))
        half = stats.t.ppf(1 - level / 2, n - 1) * values.std(1, ddof=1) / math.sqrt(n)
        clears = (values.mean(1) - half > -distances[0]) & (values.mean(1) + half < distances[1])
        finite = [distance for distance in distances if math.isfinite(distance)]
        assert power_of(finite, level, n) == pytest.approx(clears.mean(), abs=0.012)


def test_an_undecided_finding_tells_how_many_seeds_it_asks_for():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(8)
    values = 0.5 + (values - values.mean()) / values.std(ddof=1)
    assert between("", "", values, low=0).needed == 34
    assert between("", "", values, high=0).needed == 34, "it would be contradicted"
    assert between("", "", values, low=0.5).needed == math.inf
    assert math.isnan(between("", "", values + 9, low=0).needed) and math.isnan(between("", "", [0.5], low=0).needed)


def test_looks_spend_what_there_is():
    plan = looks(MOST)
    assert [seeds for seeds, _ in plan] == [6, 12, 24]
    assert sum(level for _, level in plan) == pytest.approx(0.05)
    # Lan and DeMets' function that resembles Pocock's bounds, at a quarter, a half and the whole.
    assert np.cumsum([level for _, level in plan]) == pytest.approx([0.01787, 0.03101, 0.05], rel=1e-3)
    assert [seeds for seeds, _ in looks(2)] == [2] and [seeds for seeds, _ in looks(5)] == [2, 3, 5]


def studies_without_effect(count, families, rng):
    """Differences of four conditions to a first one whose luck they share, seed by seed, as the claims take them."""
    base = rng.standard_normal((count, MOST, 1))
    return 0.7 * base + rng.standard_normal((count, MOST, families))


def decide_by_looking(differences):
    """What `reproduce --decide` does: it looks, and adds seeds only while something is undecided."""
    plan = looks(MOST)
    families = []
    for seeds, _ in plan:
        families.append([between("", str(i), own[:seeds], low=0) for i, own in enumerate(differences.T)])
        found = first_decisions(families, [level for _, level in plan[: len(families)]])
        if all(finding.verdict != "undecided" for finding in found):
            break
    return found


@pytest.mark.parametrize("families", [1, 3])
def test_without_an_effect_one_is_reported_in_at_most_a_twentieth_of_studies(families):
    found = studies_without_effect(1000, families, np.random.default_rng(0))
    reported = [any(f.verdict != "undecided" for f in decide_by_looking(own)) for own in found]
    assert 5 <= sum(reported) <= 50


def test_the_rate_of_false_effects_is_below_a_twentieth_beyond_doubt():
    """The same decisions in the formulas of the text, for so many studies that chance is 0.05 points."""
    differences = studies_without_effect(200_000, 1, np.random.default_rng(1))[:, :, 0]
    reported = np.zeros(len(differences), dtype=bool)
    for seeds, level in looks(MOST):
        own = differences[:, :seeds]
        t = own.mean(1) / (own.std(1, ddof=1) / math.sqrt(seeds))
        reported |= np.abs(t) > stats.t.ppf(1 - level / 2, seeds - 1)
    assert 0.04 < reported.mean() < 0.05
    few = [any(f.verdict != "undecided" for f in decide_by_looking(own[:, None])) for own in differences[:300]]
    assert few == reported[:300].tolist()


def test_a_real_effect_is_found():
    found = 1.5 + studies_without_effect(100, 1, np.random.default_rng(0))
    decided = [decide_by_looking(own)[0] for own in found]
    assert sum(f.verdict == "supported" for f in decided) >= 95
    assert {f.n for f in decided} <= {6, 12, 24} and sum(f.n < 24 for f in decided) >= 50, "most end early"


def table_of(errors, looked=True, most=MOST, seeds=3):
    """Runs of one setting with these errors: a row a seed, a column a coupling strength."""
    rows = []
    for (seed, own), (which, coupling) in itertools.product(enumerate(errors), enumerate((0.0, 0.5, 0.9, 1.0))):
        run = RunConfig(stages=3, blocks=3, init="recurrent", coupling=coupling, seed=seed)
        rows.append({**run.to_dict(), "name": run.name, "test_error": own[which]})
    looks_table = pd.DataFrame([{"claim": 7, **Where.of(run).to_row(), "seeds": seeds, "most": most}])
    return Tables(pd.DataFrame(rows), *[pd.DataFrame()] * 4, looks_table if looked else pd.DataFrame())


def test_tables_with_looks_are_judged_as_the_decisions_above():
    rng = np.random.default_rng(3)
    for effect, seeds in itertools.product((0.0, 1.5), (5, 6, 11, 12, 23, 24)):
        errors = rng.standard_normal((seeds, 4)) + [0, effect, effect, effect]
        plan = [(count, level) for count, level in looks(MOST) if count <= seeds]
        families = [
            [between("", str(i), errors[:count, i] - errors[:count, 0], low=0) for i in (1, 2, 3)] for count, _ in plan
        ]
        expected = [finding.verdict for finding in first_decisions(families, [level for _, level in plan])]
        found = [cell.verdict for row in judge(CLAIMS[6], table_of(errors)).rows for cell in row.cells]
        assert found == (expected or ["undecided"] * 3)


def test_a_look_waits_for_every_run_and_other_claims_keep_their_own_seeds():
    errors = np.random.default_rng(0).standard_normal((12, 4)) * 0.1 + [0, 1, 1, 1]
    tables = table_of(errors)
    whole = judge(CLAIMS[6], tables)
    assert {f.verdict for f in whole.findings} == {"supported"} and {f.n for f in whole.findings} == {6}
    gap = replace(tables, runs=tables.runs[(tables.runs["seed"] != 4) | (tables.runs["coupling"] < 1)])
    waiting = judge(CLAIMS[6], gap)
    assert {f.why for f in waiting.findings} == {"the first look is at 6 seeds"}
    assert {f.verdict for f in waiting.findings} == {"undecided"}
    # Seeds were added because of what claim 7 showed, so that claim 17 is judged by the first three.
    assert {f.n for f in judge(CLAIMS[16], tables).findings} == {3}
    assert {f.n for f in judge(CLAIMS[16], replace(tables, looks=pd.DataFrame())).findings} == {12}
    assert {f.level for f in whole.findings} != {f.level for f in judge(CLAIMS[6], table_of(errors, False)).findings}
