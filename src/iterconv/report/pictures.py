"""The paper's figures, drawn from the tables of any runs, with captions that are made of these."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from iterconv.errors import InputError, suggest
from iterconv.figures.alternatives import draw_alternatives
from iterconv.figures.coupling import draw_coupling
from iterconv.figures.curves import draw_instances
from iterconv.figures.parameters import draw_parameters
from iterconv.figures.style import in_style, save
from iterconv.figures.toy import draw_toy
from iterconv.figures.training import draw_training
from iterconv.figures.variants import draw_data_sets, draw_variants
from iterconv.options import FigureStyle, Residual
from iterconv.report.captions import Group, count_networks, group_runs
from iterconv.report.picture import Picture
from iterconv.report.prefix import draw_rules
from iterconv.studies.study import Study
from iterconv.studies.tables import Tables, prediction_indices


def save_pictures(study: Study, tables: Tables, names: Sequence[str], folder: Path) -> list[Picture]:
    """Draw a study's figures from the runs that are finished, and write them as PNG and SVG.

    Args:
        study: The study.
        tables: The tables of this study's runs, and possibly of others.
        names: The names of the study's runs.
        folder: The folder of the files.

    Returns:
        The pictures; none where nothing is finished.

    Raises:
        OSError: If a file can't be written.
    """
    own = tables.named(names)
    drawn = _OF_STUDY.get(study.name, (study.name,))
    figures = [FIGURES.get(name, _coupling(study.residual)) for name in drawn]
    pictures = [picture for name, made in zip(drawn, figures, strict=True) for picture in made.draw(name, own)]
    for picture in pictures:
        save(picture.figure, folder / picture.name)
    return pictures


def draw_pictures(name: str, tables: Tables, style: FigureStyle = "screen") -> list[Picture]:
    """Draw one of the paper's figures, once for each kind of network and data that there is.

    Args:
        name: The name of the figure, such as ``"fig3"``.
        tables: The tables of any runs.
        style: One of ``figures.style.STYLES``.

    Returns:
        The pictures.

    Raises:
        InputError: If there is no such figure, or no run that it could show.
    """
    found = find_figure(name)
    with in_style(style):
        pictures = [replace(picture, style=style) for picture in found.draw(name, tables)]
        for picture in pictures:
            picture.figure.draw_without_rendering()  # else parts of it would be made later, in the user's own style
    if not pictures:
        raise InputError(f"there is nothing to draw {name} from; it needs {found.needs}")
    return pictures


@dataclass(frozen=True)
class Kind:
    """A figure that can be drawn from tables."""

    draw: Callable[[str, Tables], Iterator[Picture]]
    """A function of the name of the figure and the tables; it yields nothing where there is nothing to show."""
    needs: str
    """The runs that it needs."""


def find_figure(name: str) -> Kind:
    """Find a figure by name; raises ``InputError`` if there is none."""
    if name not in FIGURES:
        raise InputError(f"there is no figure {name!r}; {suggest(name, FIGURES)}")
    return FIGURES[name]


def _standard(tables: Tables, residual: Residual = "ordinary") -> Iterator[tuple[int, Group]]:
    """Yield the groups of networks with a kind of residual function, without variants, and numbers from 1."""
    number = 0
    for group in group_runs(tables):
        own = group.select(kernel="uniform", first_coupled=0, norm_scale=1.0, residual=residual)
        if len(own.tables.runs):
            number += 1
            yield number, own


def _ordinary(tables: Tables) -> Iterator[tuple[str, int, Group]]:
    """Yield the networks of each group that are coupled and constrained in no way, width by width, and numbers."""
    for number, group in _standard(tables):
        for width, own in group.select(coupling=0.0, init="independent").widths():
            yield f"{number}-width{width}", width, own


def _draw_fig1(name: str, tables: Tables) -> Iterator[Picture]:
    if tables.toy.empty:
        return
    seeds = tables.toy["seed"].nunique()
    yield Picture(
        name=name,
        caption="The toy inverse problem. Above: estimates of four latent points in the plane, read out after each "
        "block (solid) and after each further evaluation of the last block (dashed), by networks of the first seed. "
        "Below: root mean squared error over 4,096 points under each perturbation; lines are networks, of "
        f"{seeds} seed{'s' * (seeds > 1)}. Axes end at 3; nets without shortcuts leave them.",
        figure=draw_toy(tables.toy),
    )


def _draw_fig2(name: str, tables: Tables) -> Iterator[Picture]:
    for number, _, own in _ordinary(tables):
        yield Picture(
            name=f"{name}-{number}",
            caption=f"Ordinary networks. {own.caption} Above: test error when one stage is read out early, loses one "
            "block, or has its last block evaluated again; lines are networks, one is emphasised; dashed: chance. "
            "Below: the indices by stage (dots: networks, bars: their means), and test error against two "
            "of them.",
            figure=draw_instances(own.tables.curves, own.tables.indices, own.tables.runs),
        )


def _draw_fig6(name: str, tables: Tables) -> Iterator[Picture]:
    for number, _, own in _ordinary(tables):
        if {"disagreement", "cross_entropy", "distance"} <= set(own.tables.curves["metric"]):
            yield Picture(
                name=f"{name}-{number}",
                caption=f"Ordinary networks, measured in other ways. {own.caption} Left: two indices with errors "
                "against the unperturbed networks' own predictions. Right: cross-entropy, and Euclidean distance of "
                "the stage's output to the unperturbed one, under each perturbation; lines are networks, one is "
                "emphasised.",
                figure=draw_alternatives(own.tables.curves, prediction_indices(own.tables)),
            )


def _coupling(residual: Residual) -> Kind:
    """Make the figure of indices and error against coupling strength: Fig. 3, 4, 12, and those of users' studies."""

    def draw(name: str, tables: Tables) -> Iterator[Picture]:
        plain = {group.label: group.tables.runs for _, group in _standard(tables)}
        for number, own in _standard(tables, residual):
            baseline = plain.get(own.label) if residual != "ordinary" else None
            yield Picture(
                name=f"{name}-{number}",
                caption=f"{_KINDS[residual]}. {own.caption} Above: indices (mean over stages) against coupling "
                "strength; each dot is a network, lines join means. Below: test error against coupling strength"
                + (" (dashed: unconstrained networks)" if baseline is not None else "")
                + "; test error against two indices, lines join the conditions of one width, so of equal parameter "
                "count.",
                figure=draw_coupling(own.tables.runs, baseline),
            )

    return Kind(draw, f"networks that are {residual}")


def _draw_fig3(name: str, tables: Tables) -> Iterator[Picture]:
    yield from _coupling("ordinary").draw(name, tables)
    sets = {
        group.label: group.tables.runs for _, group in _standard(tables) if _has_sets(group.tables.runs)
    }  # data sets with several labels an image
    if sets:
        yield _draw_sets(f"{name}-sets", sets)


def _draw_fig5(name: str, tables: Tables) -> Iterator[Picture]:
    for number, group in _standard(tables):
        widths = dict(group.widths())
        own = widths[16 if 16 in widths else min(widths)]
        if len(own.tables.history):
            yield Picture(
                name=f"{name}-{number}",
                caption=f"Error in the course of training. {own.caption} Thin lines are networks, thick ones means "
                "over seeds.",
                figure=draw_training(own.tables.history),
            )


def _draw_fig7(name: str, tables: Tables) -> Iterator[Picture]:
    yield from _draw_counts(name, "Effective parameter counts.", _standard(tables))


def _draw_counts(name: str, title: str, groups: Iterable[tuple[int, Group]]) -> Iterator[Picture]:
    for number, own in groups:
        yield Picture(
            name=f"{name}-{number}",
            caption=f"{title} {own.caption} {_COUNTS}",
            figure=draw_parameters(own.tables.runs),
        )


def _variants(tables: Tables) -> Iterator[tuple[int, Group]]:
    """Yield the groups of ordinary networks in several variants of coupling or initialisation, and numbers from 1."""
    number = 0
    for group in group_runs(tables):
        own = group.select(residual="ordinary")
        if _has_variants(own):
            number += 1
            yield number, own


def _has_variants(group: Group) -> bool:
    return len(group.tables.runs[["kernel", "first_coupled", "norm_scale"]].drop_duplicates()) > 1


def _draw_fig8(name: str, tables: Tables) -> Iterator[Picture]:
    for number, group in _variants(tables):
        for width, own in group.widths():
            if not _has_variants(own):
                continue
            yield Picture(
                name=f"{name}-{number}-width{width}",
                caption=f"Variants of coupling and of the initial batch norm. {own.caption} Test error, mean "
                "normalised deviation of the blocks from their mean, and indices (mean over stages), against "
                "coupling strength. Each dot is a network, lines join means.",
                figure=draw_variants(own.tables.runs),
            )


def _draw_fig9(name: str, tables: Tables) -> Iterator[Picture]:
    yield from _draw_counts(name, "Effective parameter counts of all variants.", _variants(tables))


def _draw_fig13(name: str, tables: Tables) -> Iterator[Picture]:
    settings = {group.label: group.tables.runs for _, group in _standard(tables)}
    if settings:
        yield _draw_sets(name, settings)


def _draw_prefix(name: str, tables: Tables) -> Iterator[Picture]:
    if len(tables.prefix):
        for rule, caption, figure in draw_rules(tables):
            yield Picture(name=f"{name}-{rule}", caption=caption, figure=figure)


def _has_sets(runs: pd.DataFrame) -> bool:
    return bool(runs["test_exact_error"].notna().any())


def _draw_sets(name: str, settings: dict[str, pd.DataFrame]) -> Picture:
    every = pd.concat(list(settings.values()))
    seeds = every.groupby(["data", "samples", "width", "init", "coupling"], dropna=False)["seed"].nunique()
    exact = (
        " The last panels show the share of images whose set of digits is not exactly right."
        if any(map(_has_sets, settings.values()))
        else ""
    )
    return Picture(
        name=name,
        caption=f"Test error against coupling strength on {len(settings)} kinds of data and networks: "
        f"{'; '.join(settings)}. {count_networks(len(every), seeds)}. "
        "Each dot is a network, lines join means; axes begin at zero, so that equal heights are equal shares of the "
        f"error.{exact}",
        figure=draw_data_sets(settings),
    )


_COUNTS = (
    "From the upper left: effective against raw count (dashed: equal), test error against each, mean normalised "
    "deviation of the blocks from their mean. Each dot is a network."
)
_KINDS = {
    "ordinary": "Ordinary networks",
    "improper": "Improperly convergent networks",
    "proper": "Properly convergent networks",
}
_VARIANTS = "variants of ordinary networks, as in the study fig8"
_PROPER = "properly convergent networks, as in the study fig12"
FIGURES: dict[str, Kind] = {
    "fig1": Kind(_draw_fig1, "the toy networks of the study fig1"),
    "fig2": Kind(_draw_fig2, "ordinary networks without coupling, as in the study fig2"),
    "fig3": Kind(_draw_fig3, "ordinary networks, as in the study fig3"),
    "fig4": Kind(_coupling("improper").draw, "improperly convergent networks, as in the study fig4"),
    "fig5": Kind(_draw_fig5, "ordinary networks with their histories, as in the study fig3"),
    "fig6": Kind(_draw_fig6, "ordinary networks without coupling, as in the study fig2"),
    "fig7": Kind(_draw_fig7, "ordinary networks, as in the study fig7"),
    "fig8": Kind(_draw_fig8, _VARIANTS),
    "fig9": Kind(_draw_fig9, _VARIANTS),
    "fig10": Kind(_draw_fig8, _VARIANTS),
    "fig11": Kind(_coupling("proper").draw, _PROPER),
    "fig12": Kind(_coupling("proper").draw, _PROPER),
    "fig13": Kind(_draw_fig13, "ordinary networks, as in the study fig13"),
    "prefix": Kind(_draw_prefix, "networks of the study prefix"),
}
"""The figures by name. Choice: one figure shows what the paper has in Fig. 8 and 10, and another what it has in Fig. 11
and 12."""
_OF_STUDY = {"fig2": ("fig2", "fig6"), "fig3": ("fig3", "fig5")}
"""The figures of studies that have another one than that of their name."""
