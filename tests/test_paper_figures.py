"""The paper's figures from any folder of results: what they show, their captions, styles and files."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.text import Text

import iterconv as ic
from commands import refused
from iterconv.cli.main import main
from iterconv.figures import style
from iterconv.report.captions import group_runs
from iterconv.report.pictures import FIGURES, draw_pictures
from iterconv.studies.tables import Tables

QUICK = Path(__file__).parents[1] / "results" / "quick"
# Machado et al. 2009, "A physiologically-based model for simulation of color vision deficiency", severity 1.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3).tolist(),
}


@pytest.fixture(scope="module")
def quick():
    return Tables.load(QUICK)


@pytest.fixture(scope="module")
def few(quick):
    """The ordinary networks of three stages."""
    return group_runs(quick)[0].select(residual="ordinary").tables


def lab(colour, matrix):
    """CIELAB of a colour as somebody with such eyes sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        np.array(matrix) @ linear, 0, 1
    )
    ratio = xyz / np.array([0.9505, 1, 1.089])
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", BLINDNESS)
@pytest.mark.parametrize("palette", ["STAGE_COLOURS", "WIDTH_COLOURS", "CONDITION_COLOURS"])
def test_colours_differ_for_all_eyes(palette, eyes):
    colours = getattr(style, palette)
    seen = [lab(colour, BLINDNESS[eyes]) for colour in (colours.values() if isinstance(colours, dict) else colours)]
    seen.append(lab("white", BLINDNESS[eyes]))
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def clipped(figure):
    """True if something of a figure reaches beyond its edge by more than a hundredth of an inch."""
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return box.x0 < -0.01 or box.y0 < -0.01 or box.x1 > width + 0.01 or box.y1 > height + 0.01


def check(picture):
    assert not clipped(picture.figure), picture.name
    assert picture.caption.endswith(".") and "nan" not in picture.caption and "  " not in picture.caption
    assert all(text.get_fontsize() >= 5 for text in picture.figure.findobj(Text)), "journals print nothing smaller"


@pytest.mark.medium
@pytest.mark.parametrize("name", ["slides", pytest.param("paper", marks=pytest.mark.extended)])
def test_a_figure_has_the_size_of_its_style_and_nothing_is_cut_off(few, name):
    [picture] = draw_pictures("fig3", few, name)
    width, height = picture.figure.get_size_inches()
    assert width == style.STYLES[name].width and (name == "paper" or width / height == pytest.approx(16 / 9, rel=2e-3))
    check(picture)


def dots(axes):
    """The heights of all dots in a panel."""
    return np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "o"])


@pytest.mark.medium
def test_every_seed_is_seen_and_panels_share_their_scales(few):
    runs = few.runs.query("kernel == 'uniform' and first_coupled == 0 and norm_scale == 1")
    [picture] = draw_pictures("fig3", few)
    indices, errors = picture.figure.axes[:3], picture.figure.axes[3:]
    for axes, name in zip(indices, ("convergence", "recurrence", "divergence"), strict=True):
        assert sorted(dots(axes)) == sorted(runs[name]) and axes.get_ylim() == indices[0].get_ylim()
    for axes in errors:
        assert sorted(dots(axes)) == sorted(runs["test_error"]) and axes.get_ylim() == errors[0].get_ylim()
    picture.figure.axes[0].set_title("mine")  # it is matplotlib's, to be changed
    [training] = draw_pictures("fig5", few)
    thin = [line for line in training.figure.axes[1].lines if line.get_linewidth() < 1]
    assert len(thin) == len(runs) == 15
    ends = few.history[few.history["epoch"] == 8].set_index("name")["selection_error"].loc[list(runs["name"])]
    assert sorted(line.get_ydata()[-1] for line in thin) == sorted(ends)


def test_captions_are_made_of_the_runs(quick):
    groups = group_runs(quick)
    assert [group.label for group in groups] == [
        "UCI digits, 3 stages of 5 blocks, 8 epochs",
        "UCI digits, 1 stage of 16 blocks, 10 epochs",
    ]
    caption = groups[1].caption
    assert caption.startswith(groups[1].label) and "widths 8 and 16" in caption
    assert "45 networks, with 3 to 6 seeds in each condition" in caption and "errors on 359 test images" in caption
    assert "learning rate 0.1 and batches of 32" in caption
    without = groups[1].tables.runs.query("not (coupling == 1 and seed == 2)")
    fewer = groups[1].tables.named(without["name"])
    assert "43 networks, with 2 to 6 seeds" in group_runs(fewer)[0].caption


def test_runs_that_differ_in_what_no_figure_shows_are_not_drawn_together(few):
    runs = few.runs.copy()
    runs.loc[runs["seed"] == 2, "lr"] = 0.05
    changed = Tables(runs, few.indices, few.curves, few.history, few.toy)
    groups = group_runs(changed)
    assert [group.label.rsplit(", ", 1)[1] for group in groups] == ["lr 0.1", "lr 0.05"]
    assert [sorted(set(group.tables.runs["seed"])) for group in groups] == [[0, 1], [2]]


@pytest.mark.medium
def test_files_hold_their_caption_and_equal_runs_make_equal_files(few, tmp_path):
    [picture] = draw_pictures("fig13", few, "paper")
    for name in ("a.pdf", "b.pdf", "a.svg"):
        picture.save(tmp_path / name)
        assert picture.caption[:60].encode() in (tmp_path / name).read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert b"FontFile2" in (tmp_path / "a.pdf").read_bytes(), "letters are letters, in TrueType"
    assert b"/Subtype /Image" not in (tmp_path / "a.pdf").read_bytes(), "nothing in it consists of pixels"
    assert (tmp_path / "a.txt").read_text() == picture.caption + "\n"
    with pytest.raises(ic.InputError, match="a.gif does not name a figure; let it end in .pdf, .svg or .png"):
        picture.save(tmp_path / "a.gif")


def test_bad_names_styles_and_files_are_refused_before_the_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("iterconv.cli.figure.load", lambda _: pytest.fail("nothing may be read yet"))
    monkeypatch.chdir(tmp_path)
    assert "there is no figure 'fig'; did you mean 'fig" in refused(capsys, "figure", "fig", str(QUICK))
    assert "let it end in .pdf, .svg or .png" in refused(capsys, "figure", "fig3", "--out", "fig3.jpg")
    assert "can't write to" in refused(capsys, "figure", "fig3", "--out", "/proc/x/fig3.pdf")
    assert "--style posters is unknown; use 'screen'" in refused(capsys, "figure", "fig3", "--style", "posters")
    with pytest.raises(ic.InputError, match="style='posters'"):
        ic.figure("fig3", QUICK, style="posters")
    with pytest.raises(ic.InputError, match="no figure 'figure3'"):
        ic.figure("figure3", QUICK)
    with pytest.raises(ic.InputError, match="holds no tables"):
        ic.figure("fig3", tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_what_a_folder_lacks_is_told(few):
    for name, needed in (("fig4", "improperly convergent networks"), ("prefix", "networks of the study prefix")):
        with pytest.raises(ic.InputError, match=f"nothing to draw {name} from; it needs {needed}"):
            draw_pictures(name, few)


@pytest.mark.medium
def test_the_command_writes_a_file_for_each_kind_of_data_and_network(tmp_path, capsys):
    assert main(["figure", "fig5", str(QUICK), "--out", str(tmp_path / "x.svg"), "--style", "slides"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"x-1.svg", "x-1.txt", "x-2.svg", "x-2.txt"}
    printed = capsys.readouterr().out
    assert re.search(r"x-2.svg: Error in the course of training. UCI digits, 1 stage of 16 blocks", printed)


@pytest.mark.medium
@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in FIGURES if name != "prefix"])
@pytest.mark.parametrize("look", ["screen", "paper", "slides"])
def test_no_figure_is_cut_off_in_any_style(quick, name, look):
    for picture in draw_pictures(name, quick, look):
        check(picture)
        assert picture.figure.findobj(Line2D)
