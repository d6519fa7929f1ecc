"""The study of prefix sums: its claims on synthetic tables, its figure, and its way through the commands."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from iterconv.claims.about_prefix import at_the_end, separation
from iterconv.claims.claims import CLAIMS, OWN_CLAIMS
from iterconv.claims.deciding import Budget, find_claim, next_jobs, runs_for
from iterconv.claims.telling import describe
from iterconv.claims.verdicts import judge, judge_all, scale_of
from iterconv.cli.main import main
from iterconv.figures.prefix import draw_prefix
from iterconv.report.prefix import summarise_prefix
from iterconv.studies.catalogue import STUDIES, find_scale, find_studies
from iterconv.studies.prefix_runs import DESK_PREFIX, KINDS, PrefixRun, prefix_cost, prefix_runs, where_of
from iterconv.studies.runs import find_unfinished, load
from iterconv.studies.study import CONDITIONS, OtherJobs, unique_jobs
from iterconv.studies.tables import Tables
from iterconv.training.prefix import PrefixConfig, draw_depths

pytestmark = pytest.mark.medium

LENGTHS, READ_OUTS = (24, 64, 512), (16, 100, 400)
EMPTY = [pd.DataFrame()] * 5


def expected(lacks, init, coupling, length):
    """Accuracy in a world in which coupling helps and every ingredient is needed."""
    if length == 24:
        return 1.0
    return coupling**0.1 if lacks == "nothing" and init == "recurrent" else 0.0


def world(accuracy=expected, residual=lambda right: 1e-5 if right > 0.97 else 0.1, seeds=4, noise=0.004, index=None):
    rng, rows, nets = np.random.default_rng(0), [], []
    for without, (init, coupling), seed in itertools.product(KINDS, CONDITIONS, range(seeds)):
        lacks = " and ".join(without) or "nothing"
        label = {"name": f"{lacks}-{init}-{coupling}-{seed}", "lacks": lacks, "init": init, "coupling": coupling}
        label |= {"seed": seed, **DESK_PREFIX.where.to_row()}
        at_512 = accuracy(lacks, init, coupling, 512)
        nets.append(
            {
                **label,
                **dict.fromkeys(("raw", "tied", "effective", "mean_deviation"), 1.0),
                **dict.fromkeys(("convergence", "recurrence", "divergence"), 0.7),
                **({"divergence": index(at_512)} if index else {}),
            }
        )
        for beyond, length, iterations in itertools.product(("last", "cycle"), LENGTHS, READ_OUTS):
            right = accuracy(lacks, init, coupling, length) if iterations > 16 or length == 24 else 0.0
            values = {"accuracy": float(np.clip(right + noise * rng.standard_normal(), 0, 1)), "bit_accuracy": 0.9}
            values |= {"residual": residual(at_512) * (1 + 0.1 * rng.random()), "settled": 0.5, "finite": 1.0}
            rows.append({**label, "beyond": beyond, "length": length, "iterations": iterations, **values})
    return Tables(*EMPTY, prefix=pd.DataFrame(rows), prefix_nets=pd.DataFrame(nets))


def verdicts(tables):
    """The verdict on each part that has a cell; there is one setting."""
    rows = [row for claim in OWN_CLAIMS for row in judge(claim, tables).rows]
    return {row.label: cell.verdict for row in rows for cell in row.cells}


ALL = ("P1", "P2", "P3", "P4", "P5", "P6")
PARTS = ["P1", "P2a", "P2b", "P3a", "P3b", "P4a", "P4b", "P4c", "P5a", "P5b", "P6a", "P6b", "P6c", "P6d"]


def test_own_claims_are_judged_where_there_are_nets_for_them_and_only_there():
    assert tuple(claim.number for claim in OWN_CLAIMS) == ALL
    tables = world()
    assert tuple(judgement.claim.number for judgement in judge_all(tables)) == ALL
    assert len(judge_all(Tables(*EMPTY))) == len(CLAIMS)
    where = "prefix sums (24 bits, width 24, 3,000 steps), 1 stage of 16 blocks"
    assert scale_of(tables) == f"{where}: 4 seeds, 80 nets"
    assert {str(f.setting) for judgement in judge_all(tables) for f in judgement.findings} == {where}


def test_a_world_in_which_all_of_it_holds():
    tables = world(seeds=8)  # fewer do not decide P6 where seeds do not differ: there are four findings
    found = [finding for claim in OWN_CLAIMS for finding in judge(claim, tables).findings]
    assert verdicts(tables) == dict.fromkeys(PARTS, "supported"), [describe(finding) for finding in found]


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"accuracy": lambda lacks, init, coupling, length: 0.6}, {"P1", "P4a", "P4b", "P4c"}),
        ({"accuracy": lambda lacks, init, coupling, length: 1 - 0.3 * coupling}, {"P1", "P2a", "P2b", "P4a"}),
        ({"accuracy": lambda lacks, init, coupling, length: float(coupling == 1)}, {"P3a", "P3b", "P4c"}),
        ({"residual": lambda right: 1e-5}, {"P5b"}),
        ({"residual": lambda right: 0.1}, {"P5a"}),
        ({"residual": lambda right: 0.1 * (1 + right)}, {"P5a", "P6a"}),
        ({"index": lambda right: -right}, {"P6d"}),
    ],
)
def test_worlds_in_which_some_of_it_is_wrong(changes, wrong):
    found = verdicts(world(**changes, seeds=8 if wrong == {"P6d"} else 4))
    assert {part for part, verdict in found.items() if verdict == "contradicted"} >= wrong


def test_few_or_scattered_nets_decide_nothing():
    one = verdicts(world(seeds=1))
    assert {verdict for part, verdict in one.items() if part[:2] != "P5"} == {"undecided"}
    assert not verdicts(Tables(*EMPTY)), "no cell without a net"
    assert verdicts(world(noise=2.0))["P3a"] == "undecided"


def test_nets_of_other_settings_are_judged_apart():
    large = world()
    small = replace(PrefixConfig(), bits=12)
    nets, rows = (
        table.assign(name="s" + table["name"], data=where_of(small).data) for table in (large.prefix_nets, large.prefix)
    )
    both = replace(large, prefix=pd.concat([large.prefix, rows]), prefix_nets=pd.concat([large.prefix_nets, nets]))
    (row,) = judge(OWN_CLAIMS[0], both).rows
    assert [cell.setting for cell in row.cells] == [where_of(small), DESK_PREFIX.where]
    assert {cell.deciding.n for cell in row.cells} == {4}


def test_more_seeds_are_added_as_for_the_papers_claims(tmp_path):
    studies, scale = list(find_studies(("prefix",))), find_scale("desk")
    claim, part = find_claim("P4a")
    wanted = runs_for(claim, studies, scale, 8)
    ((where, jobs),) = wanted.items()
    assert where == DESK_PREFIX.where and part == "a" and len(jobs) == 3 * 8
    assert {(job.config.lacks, job.config.coupling) for job in jobs} == {(*kind, 1.0) for kind in KINDS[1:]}
    assert len(next_jobs(judge(claim, world(seeds=0)), part, wanted, 8, tmp_path)[where]) == 3 * 2, "the first look"
    looked = pd.DataFrame([{"claim": "P1", **where.to_row(), "seeds": 2, "most": 8}])
    tables = replace(world(seeds=6), looks=looked)
    assert {finding.n for finding in judge(OWN_CLAIMS[1], tables).findings} == {2}, "others keep their own seeds"
    assert judge(OWN_CLAIMS[0], tables).findings[0].n in (2, 4) and Budget.parse("8").seeds == 8


def test_effects_are_those_of_the_tables():
    tables = world(noise=0)
    (tied,) = judge(OWN_CLAIMS[0], tables).findings
    assert (tied.effect, tied.n) == (1.0, 4)
    slope = next(f for f in judge(OWN_CLAIMS[1], tables).findings if f.part == "b" and "512" in f.statement)
    strengths = np.array([0, 0.5, 0.9, 1])
    assert slope.effect == pytest.approx(np.polyfit(strengths, strengths**0.1, 1)[0])
    partial = judge(OWN_CLAIMS[2], tables).findings[0]
    assert partial.effect == pytest.approx(0.9**0.1 - 1)


def test_separation_is_the_share_of_pairs_in_the_right_order():
    rows = pd.DataFrame({"seed": [0] * 5 + [1] * 2, "accuracy": [1, 1, 0, 0, 0, 1, 1], "step": [3, 2, 1, 2, 5, 0, 0]})
    assert separation(rows, "step").to_dict() == {0: pytest.approx((1 + 1 + 0 + 1 + 0.5 + 0) / 6)}, "one seed has both"


def test_the_end_is_the_last_read_out_of_each_net():
    tables = world(noise=0, seeds=1)
    rows = at_the_end(tables, beyond="last", lacks="nothing")
    assert len(rows) == len(CONDITIONS) * len(LENGTHS) and (rows["iterations"] == 400).all()


def test_states_that_overflow_count_as_moving():
    tables = world(noise=0)
    lost = tables.prefix["residual"] > 0.05
    tables = replace(tables, prefix=tables.prefix.assign(residual=tables.prefix["residual"].mask(lost)))
    assert verdicts(tables)["P5a"] == verdicts(tables)["P5b"] == "supported"


def test_the_figure_shows_every_net():
    rows = world().prefix
    rows = rows[rows["beyond"] == "last"]
    figure = draw_prefix(rows, 512, 64)
    above, middle, below = figure.axes[0], figure.axes[4], figure.axes[8]
    assert [axes.get_title() for axes in figure.axes[:4]] == [
        "full recipe",
        "no norm",
        "no progressive loss",
        "no recall",
    ]
    for axes in (above, middle, below):
        assert len(axes.lines) == len(CONDITIONS) * (4 + 1), "four seeds and their mean"
    tied = rows[(rows["lacks"] == "nothing") & (rows["coupling"] == 1.0)]
    mean = tied[tied["iterations"] == 400].groupby("length")["accuracy"].mean()
    np.testing.assert_allclose(above.lines[-1].get_ydata(), mean)
    assert middle.get_xscale() == below.get_yscale() == "log"


def test_the_summary_has_a_row_for_each_condition():
    table = summarise_prefix(world(noise=0))
    assert len(table) == 4 * 2 * 5 and list(table.columns[-3:]) == ["24 bits", "64 bits", "512 bits"]
    row = table[(table["without"] == "nothing") & (table["coupling"] == "1")].iloc[0]
    assert (row["n"], row["512 bits"]) == (4, "100%")


def test_the_study_at_its_scales(tmp_path):
    (study,) = find_studies(("prefix",), find_scale("desk"))
    jobs = unique_jobs([study], find_scale("desk"))
    assert len(jobs) == 120 and {job.config.seed for job in jobs} == set(range(6))
    assert [job.config.lacks for job in jobs[:31]] == ["nothing"] * 30 + ["norm"]
    assert {job.config.lengths[-1] for job in jobs} == {512} and {job.config.iterations for job in jobs} == {400}
    assert jobs[4].name == "prefix-rec-c1-seed0-6544f660", "these nets are trained for hours"
    assert len(find_unfinished([study], find_scale("quick"), tmp_path)) == 120
    assert not study.runs(find_scale("desk")) and not study.trains_at(find_scale("paper"))


def test_estimates_grow_with_the_work():
    base = PrefixConfig()
    assert 20 < PrefixRun(base).seconds < 200 and PrefixRun(base).gpu_seconds > 0
    for more in ({"steps": 9000}, {"width": 48}, {"progressive": False}, {"blocks": 32}, {"strings": 900}):
        assert PrefixRun(replace(base, **more)).seconds > PrefixRun(base).seconds
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_depths(16, generator) for _ in range(4000)]
    applied = np.mean([skipped + 3 * learnt for skipped, learnt in drawn])
    few = replace(base, lengths=(1,), iterations=1, strings=1, width=32)
    per_pass = 2 * 3 * 5 * 32**2 * few.batch_size * few.bits
    assert prefix_cost(few).flops[32] / few.steps / per_pass == pytest.approx(applied, rel=0.02)


@pytest.mark.extended
def test_reproduce_trains_reports_and_judges(tmp_path, monkeypatch, capsys):
    small = dict(width=4, blocks=3, bits=6, steps=20, batch_size=8, lengths=(6, 64), strings=9, iterations=12)
    jobs = prefix_runs((0,), kinds=KINDS[:1], **small)[3:]
    others = OtherJobs(where=where_of(jobs[0].config), make=lambda seeds: jobs, seeds=1)
    monkeypatch.setitem(STUDIES, "prefix", replace(STUDIES["prefix"], jobs={"quick": others}))
    again = ["reproduce", "prefix", "--scale", "quick", "--out", str(tmp_path), "--workers", "1"]
    assert main(again) == 0
    page = (tmp_path / "report-quick" / "index.html").read_text()
    assert "P1." in page and "Strings with every bit right" in page
    names = {path.name for path in (tmp_path / "report-quick").iterdir()}
    assert {"prefix-last.png", "prefix-last.svg", "prefix-cycle.png", "prefix-cycle.svg"} <= names
    read = Tables.load(tmp_path / "report-quick" / "tables")
    made = Tables.collect(jobs, tmp_path)
    pd.testing.assert_frame_equal(read.prefix, made.prefix, check_dtype=False, rtol=1e-6)
    assert len(read.prefix_nets) == 2 and read.runs.empty
    pd.testing.assert_frame_equal(load(tmp_path).prefix, made.prefix)
    assert main(["claims", str(tmp_path / "report-quick" / "tables")]) == 0
    printed = capsys.readouterr().out
    assert "P2." in printed and "17." not in printed


def test_what_a_finished_net_says(tmp_path):
    import threading

    run = PrefixRun(PrefixConfig(width=4, blocks=3, bits=6, steps=20, lengths=(6, 8), strings=9, iterations=12))
    called = []
    run.run(tmp_path, lambda note, number: called.append(number), threading.Event())
    assert called == [run.steps] and run.outcome(tmp_path).endswith("% of 8 bits")
    (tmp_path / run.name / "readouts.parquet").write_bytes(b"")
    with pytest.raises(Exception, match="damaged"):
        run.tables(tmp_path)
    assert not math.isnan(run.gpu_seconds)
