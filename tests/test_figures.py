import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

import iterconv as ic
from iterconv.figures.claims import VERDICTS, draw_claims
from iterconv.figures.coupling import draw_coupling
from iterconv.figures.curves import draw_instances
from iterconv.figures.parameters import draw_parameters
from iterconv.figures.style import STAGE_COLOURS, conditions_of, new_figure, save, styled
from iterconv.studies.catalogue import CONDITIONS


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    net = ic.models.resnet(width=4, blocks=3, stages=2, in_channels=1)
    batch = torch.randn(40, 1, 8, 8)
    with torch.no_grad():
        labels = net.eval()(batch).argmax(1)
    return ic.measure(net, [(batch, labels)], resamples=50)


def runs(widths=(8, 16), seeds=3):
    rng = np.random.default_rng(0)
    rows = [
        {
            "width": width,
            "init": init,
            "coupling": coupling,
            "seed": seed,
            "test_error": 0.1 + 0.05 * coupling + 0.01 * rng.random(),
            "convergence": 0.5 + 0.3 * coupling,
            "recurrence": 1.0,
            "divergence": 0.5 - 0.3 * coupling,
            "raw": 1000 * width,
            "effective": 1000 * width * (1 - 0.9 * coupling),
            "mean_deviation": 1 - coupling,
            "chance": 0.9,
        }
        for width, (init, coupling), seed in itertools.product(widths, CONDITIONS, range(seeds))
    ]
    return pd.DataFrame(rows)


def test_a_report_draws_its_own_numbers(report, tmp_path):
    figure = report.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    errors = report.curves[(report.curves.metric == "error") & (report.curves.stage == 1)]
    for axes, family in zip(figure.axes, ("early read-out", "drop-out", "extra evaluation"), strict=True):
        curve = errors[errors.perturbation == family]
        line = axes.lines[1]
        assert line.get_xdata().tolist() == curve["position"].tolist()
        assert line.get_ydata().tolist() == curve["value"].tolist()
    with pytest.raises(ic.InputError, match="use .png"):
        report.plot(tmp_path / "curves.xyz")


def test_coupling_figure_has_every_seed_and_the_means():
    table = runs()
    figure = draw_coupling(table, baseline=table[table.width == 8])
    convergence = figure.axes[0]
    dots = np.concatenate([line.get_ydata() for line in convergence.lines if line.get_marker() == "o"])
    assert sorted(dots) == sorted(table["convergence"])
    means = next(line for line in convergence.lines if line.get_label() == "width 16")
    expected = table[table.width == 16].groupby(["coupling", "init"])["convergence"].mean()
    assert means.get_ydata() == pytest.approx([expected[c, i] for i, c in conditions_of(table)])
    assert [text.get_text() for text in convergence.get_xticklabels()] == ["0\nnon-rec.", "0\nrec.", "0.5", "0.9", "1"]


def test_undefined_indices_and_single_runs_can_be_drawn(report):
    table = runs(widths=(8,), seeds=1)
    table.loc[0, "convergence"] = np.nan
    convergence = draw_coupling(table).axes[0]
    dots = np.concatenate([line.get_ydata() for line in convergence.lines if line.get_marker() == "o"])
    assert sorted(dots[np.isfinite(dots)]) == sorted(table["convergence"].dropna())
    counts = [line.get_ydata() for line in draw_parameters(table).axes[0].lines if line.get_marker() == "o"]
    assert sorted(np.concatenate(counts)) == sorted(table["effective"])
    indices = report.indices.assign(seed=0)
    indices.loc[indices["index"] == "divergence", "value"] = np.nan
    assert draw_instances(report.curves.assign(seed=0), indices, table[:1]).axes


def test_equal_tables_give_equal_files(tmp_path):
    for name in "ab":
        svg = save(draw_parameters(runs()), tmp_path / name)
    assert svg.startswith("<svg")
    for suffix in ("svg", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_verdicts_are_drawn_each_in_its_place():
    rows = [
        ("1a", "toy", "supported", 10, math.nan, ""),
        ("4b", "mnist, 3 epochs", "contradicted", 4, math.nan, ""),
        ("4b", "digits", "undecided", 3, 12.0, "the interval does not decide"),
        ("5", "digits", "undecided", 3, math.inf, "the interval does not decide"),
        ("5", "toy", "undecided", 0, math.nan, "one width only"),
    ]
    columns = ["part", "setting", "verdict", "n", "cell_seeds_needed", "reason"]
    table = pd.DataFrame(rows, columns=columns).assign(part_statement="what it says")
    table = table.assign(cell_verdict=table["verdict"], claim=table["part"].str[0].astype(int))
    axes = draw_claims(table).axes[0]
    labels = {tuple(round(x, 2) for x in text.get_position()): text.get_text() for text in axes.texts}
    assert labels == {
        (0.5, 0.53): "✓  10",
        (1.5, 1.53): "✗  4",
        (2.5, 1.53): "?  3 → 12",
        (2.5, 2.53): "?  3 → >1000",
        (0.5, 2.53): "?  one width only",
    }
    assert [text.get_text() for text in axes.get_xticklabels()] == ["toy", "mnist\n3 epochs", "digits"]
    assert [text.get_text()[:2] for text in axes.get_yticklabels()] == ["1a", "4b", "5 "]
    assert len({colour for colour, _, _ in VERDICTS.values()}) == len({sign for _, _, sign in VERDICTS.values()}) == 3


def test_lines_without_a_colour_take_those_that_all_can_tell_apart():
    with styled():
        axes = new_figure(3, 2).subplots()
        lines = [axes.plot([0, 1])[0].get_color() for _ in STAGE_COLOURS]
    assert lines == list(STAGE_COLOURS)
