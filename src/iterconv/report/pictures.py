"""The figures of studies as files, with captions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.alternatives import draw_alternatives
from iterconv.figures.coupling import draw_coupling
from iterconv.figures.curves import draw_instances
from iterconv.figures.parameters import draw_parameters
from iterconv.figures.style import save
from iterconv.figures.toy import draw_toy
from iterconv.figures.training import draw_training
from iterconv.figures.variants import draw_data_sets, draw_variants
from iterconv.report.prefix import draw_rules
from iterconv.studies.study import Scale, Setting, Study
from iterconv.studies.tables import Tables, prediction_indices


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with the name of its files and a caption."""

    name: str
    caption: str
    figure: Figure


Parts = list[tuple[Setting, Tables]]
"""Settings with the tables of their runs."""


def save_pictures(study: Study, scale: Scale, tables: Tables, folder: Path) -> list[Picture]:
    """Draw a study's figures from the runs that are finished, and write them as PNG and SVG.

    Args:
        study: The study.
        scale: Its scale.
        tables: The tables of this study's runs, and possibly of others.
        folder: The folder of the files.

    Returns:
        The pictures; none where nothing is finished.

    Raises:
        OSError: If a file can't be written.
    """
    parts: Parts = []
    for setting in study.settings_at(scale):
        own = tables.named(run.name for run in study.setting_runs(setting))
        if len(own.runs):
            parts.append((setting, own))
    others = len(tables.named(job.name for job in study.others(scale)).prefix_nets)
    if not parts and not others and not (study.toy_seeds and len(tables.toy)):
        return []
    pictures = list(_PICTURES.get(study.name, _draw_coupling)(study, parts, tables))
    for picture in pictures:
        save(picture.figure, folder / picture.name)
    return pictures


def _describe(setting: Setting, runs: pd.DataFrame) -> str:
    return f"{setting.label}, {runs['seed'].nunique()} seeds"


def _draw_fig1(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    yield Picture(
        name="fig1",
        caption="The toy inverse problem. Above: estimates of four latent points in the plane, read out after each "
        "block (solid) and after each further evaluation of the last block (dashed). Below: root mean squared error "
        "over 4,096 points under each perturbation; lines are networks. Axes end at 3; "
        "nets without shortcuts leave them.",
        figure=draw_toy(tables.toy),
    )


def _draw_fig2(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    for number, width, what, own in _by_width(parts):
        yield Picture(
            name=f"{study.name}-{number}-width{width}",
            caption=f"Ordinary networks: {what}, width {width}. Above: test error when one stage is read out "
            "early, loses one block, or has its last block evaluated again; lines are networks, one is "
            "emphasised; dashed: chance. Below: the indices by stage (small dots: networks, large ones: "
            "their means), and test error against two of them.",
            figure=draw_instances(own.curves, own.indices, own.runs),
        )
        yield Picture(
            name=f"fig6-{number}-width{width}",
            caption=f"Fig. 6: the same networks, {what}, width {width}, measured in other ways. Left: two indices "
            "with errors against the unperturbed networks' own predictions. Right: cross-entropy, and Euclidean "
            "distance of the stage's output to the unperturbed one, under each perturbation.",
            figure=draw_alternatives(own.curves, prediction_indices(own)),
        )


def _by_width(parts: Parts) -> Iterator[tuple[int, int, str, Tables]]:
    for number, (setting, own) in enumerate(parts, 1):
        for width in setting.widths:
            of_width = _select(own, width=width)
            if len(of_width.runs):
                yield number, width, _describe(setting, of_width.runs), of_width


def _select(tables: Tables, **values: object) -> Tables:
    runs = tables.runs
    for column, value in values.items():
        runs = runs[runs[column] == value]
    return tables.named(runs["name"])


def _draw_coupling(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    """Draw indices and error against coupling strength: Fig. 4, Fig. 12 with 11, and studies without pictures."""
    for number, (setting, own) in enumerate(parts, 1):
        yield from _draw_setting(study, number, setting, own)


def _draw_setting(study: Study, number: int, setting: Setting, both: Tables) -> Iterator[Picture]:
    own = _select(both, residual=study.residual)
    if own.runs.empty:
        return
    constrained = study.residual != "ordinary"
    yield Picture(
        name=f"{study.name}-{number}",
        caption=f"{_KINDS[study.residual]}: {_describe(setting, own.runs)}. Above: indices (mean over stages) against "
        "coupling strength; each dot is a network, lines join means. Below: test error against coupling strength"
        + (" (dashed: unconstrained networks)" if constrained else "")
        + "; test error against two indices, lines join the conditions of one width, so of equal parameter count.",
        figure=draw_coupling(own.runs, _select(both, residual="ordinary").runs if constrained else None),
    )


def _draw_fig3(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    """Draw Fig. 3 with 5."""
    for number, (setting, own) in enumerate(parts, 1):
        yield from _draw_setting(study, number, setting, own)
        width = 16 if 16 in set(own.runs["width"]) else int(own.runs["width"].min())
        yield Picture(
            name=f"fig5-{number}",
            caption=f"Fig. 5: error in the course of training, {_describe(setting, own.runs)}, width {width}. Lines "
            "are means over seeds, bands reach from the lowest to the highest.",
            figure=draw_training(_select(own, width=width).history),
        )
    sets = {setting.label: own.runs for setting, own in parts if own.runs["test_exact_error"].notna().any()}
    if sets:
        yield _draw_sets("fig3-sets", sets)


def _draw_fig7(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    for number, (setting, own) in enumerate(parts, 1):
        yield Picture(
            name=f"{study.name}-{number}",
            caption=f"Effective parameter counts: {_describe(setting, own.runs)}. From the left: effective against raw "
            "count (dashed: equal), test error against each, mean normalised deviation of the blocks from their mean.",
            figure=draw_parameters(own.runs),
        )


def _draw_fig8(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    for number, width, what, own in _by_width(parts):
        yield Picture(
            name=f"{study.name}-{number}-width{width}",
            caption=f"Fig. 8, 9, 10: variants, {what}, width {width}: test error, mean normalised deviation of the "
            "blocks from their mean, and indices, against coupling strength. Each dot is a network, lines join means.",
            figure=draw_variants(own.runs),
        )


def _draw_fig13(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    yield _draw_sets("fig13", {setting.label: own.runs for setting, own in parts})


def _draw_prefix(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    for rule, caption, figure in draw_rules(tables):
        yield Picture(name=f"{study.name}-{rule}", caption=caption, figure=figure)


def _draw_sets(name: str, settings: dict[str, pd.DataFrame]) -> Picture:
    return Picture(
        name=name,
        caption="Test error against coupling strength. For Digitclutter: above, the share of an image's digits that "
        "is missed; below, the share of images whose set of digits is not exactly right. Each dot is a network, lines "
        "join means; vertical axes differ and need not begin at zero.",
        figure=draw_data_sets(settings),
    )


_PICTURES: dict[str, Callable[[Study, Parts, Tables], Iterator[Picture]]] = {
    "fig1": _draw_fig1,
    "fig2": _draw_fig2,
    "fig3": _draw_fig3,
    "fig7": _draw_fig7,
    "fig8": _draw_fig8,
    "fig13": _draw_fig13,
    "prefix": _draw_prefix,
}
"""The pictures of studies that have their own, by name; all others are drawn by `_draw_coupling`."""
_KINDS = {
    "ordinary": "Ordinary networks",
    "improper": "Improperly convergent networks",
    "proper": "Properly convergent networks",
}
