import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import iterconv as ic
from iterconv.claims.findings import between
from iterconv.claims.telling import describe
from iterconv.cli.tables import show_indices
from iterconv.figures.alternatives import draw_alternatives
from iterconv.figures.coupling import draw_coupling
from iterconv.figures.curves import draw_instances
from iterconv.figures.variants import draw_variants
from iterconv.indices import INDICES, Index, convergence_index, divergence_index, recurrence_index, undefined_reason
from iterconv.report.study import summarise
from iterconv.report.study_data import label_runs
from iterconv.studies.tables import Tables, prediction_indices

CHANCE = 0.9


def test_convergence_is_1_at_once_and_0_at_chance_until_the_end():
    assert convergence_index([0.1] * 16, CHANCE) == pytest.approx(1)
    assert convergence_index([0.9] * 15 + [0.1], CHANCE) == pytest.approx(0)
    # A straight line from chance down to the end: its mean before the end.
    line = np.linspace(0.9, 0.1, 16)
    assert convergence_index(line, CHANCE) == pytest.approx((0.9 - line[:-1].mean()) / 0.8)


def test_recurrence_is_1_when_all_blocks_count_alike_and_0_when_earlier_ones_give_chance():
    assert recurrence_index([0.3] * 16, CHANCE) == pytest.approx(1)
    assert recurrence_index([0.9] * 15 + [0.2], CHANCE) == pytest.approx(0)
    assert recurrence_index([0.1, 0.1, 0.2], CHANCE) > 1


def test_divergence_is_0_when_the_error_stays_and_1_at_chance():
    assert divergence_index([0.3] * 17, CHANCE) == 0
    assert divergence_index([0.1] + [0.9] * 16, CHANCE) == pytest.approx(1)
    assert divergence_index([0.2] + [0.1] * 16, CHANCE) < 0


curves = arrays.arrays(np.float64, st.integers(2, 20), elements=st.floats(0, 1))


@given(curves)
def test_indices_equal_the_specification_term_by_term(errors):
    e, T = list(errors), len(errors)
    if CHANCE - e[-1] > 1e-3:
        ci = (CHANCE - sum(e[t] for t in range(T - 1)) / (T - 1)) / (CHANCE - e[-1])
        ri = 1 - sum((e[t] - e[-1]) / (CHANCE - e[-1]) for t in range(T - 1)) / (T - 1)
        assert convergence_index(errors, CHANCE) == pytest.approx(ci, abs=1e-9)
        assert recurrence_index(errors, CHANCE) == pytest.approx(ri, abs=1e-9)
    if CHANCE - e[0] > 1e-3:
        di = sum((e[k] - e[0]) / (CHANCE - e[0]) for k in range(1, T)) / (T - 1)
        assert divergence_index(errors, CHANCE) == pytest.approx(di, abs=1e-9)


def test_trailing_dimensions_are_kept():
    errors = np.random.default_rng(0).random((5, 3, 2)) * 0.5
    for index in INDICES.values():
        together = index(errors, CHANCE)
        assert together.shape == (3, 2)
        assert together[1, 0] == pytest.approx(index(errors[:, 1, 0], CHANCE))


@pytest.mark.parametrize("name", INDICES)
def test_an_index_without_a_margin_is_undefined_with_its_reason(name):
    def reason(reference, resamples, blocks=4):
        curve = np.full((blocks, 1 + len(resamples)), 0.5)
        curve[INDICES[name].at] = [reference, *resamples]
        return undefined_reason(INDICES[name], curve, CHANCE, 0.05, 0.95)

    assert reason(0.2, [0.2] * 100) == ""
    assert reason(0.84, []) == ""
    assert "0.860 is within 0.05 of chance 0.900" in reason(0.86, [0.86] * 100)
    assert "0.950 is within" in reason(0.95, [])
    assert "too few examples" in reason(0.8, [0.95] * 10 + [0.8] * 90)
    assert "too few blocks" in reason(0.2, [0.2], blocks=1)


# Indices of users

SWAPPING = Index(
    name="swapping",
    title="Swapping Index",
    short="SI",
    family="swap",
    compute=lambda errors, chance: errors.mean(0) / chance,
)
QUICK = Path(__file__).parents[1] / "results" / "quick"


def make_report(**options):
    torch.manual_seed(0)
    net = ic.models.resnet(width=4, blocks=3, stages=2, in_channels=1).eval()
    images = torch.randn(60, 1, 8, 8)
    with torch.no_grad():
        return ic.measure(net, [(images, net(images).argmax(1))], resamples=20, **options)


def test_a_fourth_index_is_measured_kept_and_drawn(registries, tmp_path):
    three = make_report()
    assert ic.indices.register(SWAPPING) is INDICES["swapping"]
    report = make_report()
    own = report.indices[report.indices["index"] == "swapping"].set_index("stage")
    for stage in (0, 1):
        errors = report.curves.query("metric == 'error' and perturbation == 'swap' and stage == @stage").value
        assert len(errors) == 2 and own.value[stage] == pytest.approx(errors.mean() / 0.9)
        assert own.low[stage] <= own.value[stage] <= own.high[stage]
    assert own.value["mean"] == pytest.approx((own.value[0] + own.value[1]) / 2) and own.defined.all()
    drawn = report.plot(tmp_path / "four.png").axes[3]
    labels = [text.get_text() for text in drawn.get_legend().get_texts()]
    assert labels == [f"stage {stage + 1}: SI {own.value[stage]:.2f}" for stage in (0, 1)]
    report.save(tmp_path / "four.json")
    assert len(ic.Report.load(tmp_path / "four.json").indices) == 4 * 3
    drawn = three.plot().axes[0]  # an older report, which lacks the index
    assert drawn.get_legend().get_texts()[0].get_text().startswith("stage 1: CI ")


def test_tables_from_before_an_index_stay_readable_and_can_be_drawn(registries, tmp_path):
    ic.indices.register(SWAPPING)
    tables = Tables.load(QUICK)
    assert tables.runs["swapping"].isna().all() and tables.runs["convergence"].notna().any()
    tables.save(tmp_path, {})
    assert Tables.load(tmp_path).runs["swapping"].isna().all()
    runs = tables.runs[tables.runs["residual"] == "ordinary"]
    some = tables.named(runs[(runs["width"] == 8) & (runs["stages"] == 3) & (runs["init"] == "independent")]["name"])
    draw_variants(runs).savefig(tmp_path / "variants.png")
    draw_instances(some.curves, some.indices, some.runs).savefig(tmp_path / "instances.png")
    draw_alternatives(some.curves, prediction_indices(some)).savefig(tmp_path / "alternatives.png")
    values = np.linspace(0, 1, len(runs))
    figure = draw_coupling(runs.assign(swapping=values))
    figure.savefig(tmp_path / "coupling.png")
    assert [axes.get_title() for axes in figure.axes[:4]] == [index.title for index in INDICES.values()]
    assert [axes.get_title() for axes in figure.axes[5:]] == [
        "Error against convergence", "Error against divergence", "Error against swapping",
    ]  # fmt: skip
    shown = np.concatenate([line.get_ydata() for line in figure.axes[3].lines if line.get_marker() == "o"])
    assert sorted(shown) == pytest.approx(sorted(values))


def test_the_summary_of_a_report_has_a_column_for_every_index(registries):
    ic.indices.register(SWAPPING)
    table = summarise(label_runs(Tables.load(QUICK), {}))
    assert table["swapping"].isna().all() and (table["swapping undefined"] == table["n"]).all()
    assert table["convergence"].notna().any()


def test_an_index_may_read_another_metric_and_is_undefined_without_it(registries):
    ic.indices.register(replace(SWAPPING, name="away", metric="distance", compute=lambda curve, chance: curve.max(0)))
    ic.indices.register(replace(SWAPPING, name="exactly", metric="exact_error"))
    report = make_report()
    indices = report.indices.set_index(["index", "stage"])
    distances = report.curves.query("metric == 'distance' and perturbation == 'swap' and stage == 0").value
    assert indices.value["away", 0] == pytest.approx(distances.max())
    assert math.isnan(indices.value["exactly", 0]) and not indices.defined["exactly", 0]
    assert indices.reason["exactly", 0] == "the stage has too few blocks or no exact_error for the exactly index"


def test_indices_that_do_not_fit_are_refused(registries):
    with pytest.raises(ic.InputError, match="family='hop' is unknown; use 'early read-out', .* or 'run drop-out'"):
        replace(SWAPPING, family="hop")
    with pytest.raises(ic.InputError, match="the Index 'convergence' is iterconv's own; choose another name"):
        ic.indices.register(replace(SWAPPING, name="convergence"))
    with pytest.raises(ic.InputError, match="metric='eror' is unknown; use 'error', 'exact_error', "):
        replace(SWAPPING, metric="eror")
    with pytest.raises(ic.InputError, match="at='end' is not a whole number"):
        replace(SWAPPING, at="end")
    with pytest.raises(ic.InputError, match="'swap' is not an instance of iterconv.indices.base.Index; pass one"):
        ic.indices.register("swap")
    ic.indices.register(replace(SWAPPING, compute=lambda errors, chance: errors[99]))
    with pytest.raises(
        ic.InputError, match=r"the swapping index of a curve of shape .* raised IndexError: index 99 is"
    ):
        make_report()
    ic.indices.register(replace(SWAPPING, at=99))
    reasons = make_report().indices.set_index("index").loc["swapping", "reason"]
    assert reasons.str.contains("the swapping index needs position 99 of a curve that has 2").all()
    ic.indices.register(replace(SWAPPING, compute=lambda errors, chance: errors.mean()))
    with pytest.raises(ic.InputError, match=r"the swapping index of .* has shape \(\), not \(21,\); let its `compute`"):
        make_report()


def test_an_index_that_leaves_0_to_1_is_explained_wherever_it_is_printed(capsys):
    """A stage of three blocks that leans on its last one: without it, it is near chance, and RI is 2.4."""
    value = float(recurrence_index([0.14, 0.14, 0.5], 0.9 - 0.1429))
    assert value == pytest.approx(2.4, abs=0.01)
    sentence = INDICES["recurrence"].explain(value)
    assert sentence.startswith("RI above 1: dropping an earlier block costs less") and "not more recurrent" in sentence
    assert [index.explain(v) for index in INDICES.values() for v in (0.0, 0.5, 1.004, -0.004, math.nan)] == [""] * 15
    assert all(index.explain(v).startswith(index.short) for index in INDICES.values() for v in (-0.1, 1.1))
    table = pd.DataFrame({"stage": [0, "mean"], "index": "recurrence", "value": value, "low": 2.0, "high": 3.0})
    show_indices(table.assign(defined=True, reason=""))
    assert capsys.readouterr().out.replace("\n", " ").count(sentence) == 1
    finding = between("a", "RI is from 0.8 to 1.2", [value, 2.5, 2.3], 0.8, 1.2, index="recurrence")
    assert sentence in describe(finding)


def test_an_index_of_a_users_that_says_nothing_of_other_values_is_not_explained():
    assert Index(name="own", title="", short="O", family="drop-out", compute=lambda c, chance: c[0]).explain(9.0) == ""
