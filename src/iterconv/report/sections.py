"""What a report says about each study: figures with captions, tables, the command to redo it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.alternatives import draw_alternatives
from iterconv.figures.coupling import draw_coupling
from iterconv.figures.curves import draw_instances
from iterconv.figures.parameters import draw_parameters
from iterconv.figures.style import condition_label, variant_label
from iterconv.figures.toy import draw_toy
from iterconv.figures.training import draw_training
from iterconv.figures.variants import draw_data_sets, draw_variants
from iterconv.indices import INDICES
from iterconv.studies.catalogue import Scale, Setting, Study
from iterconv.studies.tables import Tables, prediction_indices


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, the name of its files, and what it shows."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class Section:
    """One study at one scale."""

    study: Study
    command: str
    wanted: int
    finished: int
    pictures: list[Picture]
    table: pd.DataFrame


def make_section(study: Study, scale: Scale, tables: Tables) -> Section:
    """Draw a study's figures from the runs that are finished, and summarise.

    Args:
        study: The study.
        scale: Its scale.
        tables: Of at least this study's runs.

    Returns:
        The section; without pictures where nothing is finished.
    """
    parts = [(setting, tables.of(study.setting_runs(setting))) for setting in study.settings(scale)]
    parts = [(setting, own) for setting, own in parts if len(own.runs)]
    draw = _PICTURES[study.name]
    wanted, finished = study.runs(scale), sum(len(own.runs) for _, own in parts)
    if study.toy and len(tables.toy):
        finished += tables.toy.groupby(["kind", "seed"]).ngroups
    return Section(
        study=study,
        command=f"iterconv reproduce {study.name} --scale {scale.name}",
        wanted=len({run.name for run in wanted}),
        finished=finished,
        pictures=list(draw(study, parts, tables)) if finished else [],
        table=_toy_summary(tables.toy) if study.toy else summary(parts),
    )


Parts = list[tuple[Setting, Tables]]


def summary(parts: Parts) -> pd.DataFrame:
    """Means and standard deviations over seeds, one row a setting, variant, width and condition.

    Args:
        parts: Settings with the tables of their runs.

    Returns:
        A table of text, "mean ± sd"; undefined indices are left out of the mean and counted.
    """
    rows = []
    keys = ["residual", "norm_scale", "kernel", "first_coupled", "width", "coupling", "init"]
    for setting, own in parts:
        for key, group in own.runs.groupby(keys):
            residual, norm_scale, kernel, first_coupled, width, coupling, init = key
            variant = variant_label(norm_scale, kernel, first_coupled)
            kind = ", ".join([residual] * (residual != "ordinary") + [variant] * (variant != "standard"))
            row = {
                "network": f"{setting.label}; {kind}" if kind else setting.label,
                "width": width,
                "coupling": condition_label(init, coupling).replace("\n", " "),
                "n": len(group),
                "test error": _spread(group["test_error"], 100, "%"),
                **{name: _spread(group[name]) for name in INDICES},
                "effective parameters": _spread(group["effective"], digits=0),
                "raw": group["raw"].iloc[0],
            }
            if group["test_exact_error"].notna().any():
                row["sets not exact"] = _spread(group["test_exact_error"], 100, "%")
            rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _toy_summary(toy: pd.DataFrame) -> pd.DataFrame:
    if toy.empty:
        return pd.DataFrame()
    measured = toy[toy["point"] < 0].set_index(["perturbation", "position"])[["kind", "rmse"]]
    shown = {
        "intact": ("extra evaluation", 0),
        "after half the blocks": ("early read-out", 8),
        "without block 8": ("drop-out", 8),
        "last block 4 times more": ("extra evaluation", 4),
        "last block 16 times more": ("extra evaluation", 16),
    }
    rows = []
    for kind in toy["kind"].unique():
        own = measured[measured["kind"] == kind]["rmse"]
        errors = {name: own.loc[[place]] for name, place in shown.items()}
        rows.append(
            {"network": kind, "n": len(errors["intact"]), **{n: _spread(e, digits=3) for n, e in errors.items()}}
        )
    return pd.DataFrame(rows)


def _spread(values: pd.Series, factor: float = 1, unit: str = "", digits: int = 2) -> str:
    defined = values.dropna().astype(float) * factor
    if defined.empty:
        return "undefined"
    text = f"{defined.mean():.{digits}f}"
    text += f" ± {defined.std():.{digits}f}" if len(defined) > 1 else ""
    left_out = len(values) - len(defined)
    return text + (f" {unit}" if unit else "") + (f" ({left_out} undefined)" if left_out else "")


def _what(setting: Setting, runs: pd.DataFrame) -> str:
    return f"{setting.label}, {runs['seed'].nunique()} seeds"


def _fig1(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    yield Picture(
        name="fig1",
        caption="The toy inverse problem. Above: estimates of four latent points in the plane, read out after each "
        "block (solid) and after each further evaluation of the last block (dashed). Below: root mean squared error "
        "over 4,096 points under each perturbation; lines are networks. Axes end at 3; "
        "nets without shortcuts leave them.",
        figure=draw_toy(tables.toy),
    )


def _fig2(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
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
            chosen = _where(own, width=width)
            if len(chosen.runs):
                yield number, width, _what(setting, chosen.runs), chosen


def _where(tables: Tables, **values: object) -> Tables:
    runs = tables.runs
    for column, value in values.items():
        runs = runs[runs[column] == value]
    return tables.named(runs["name"])


def _coupling(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    """Fig. 3 with 5; Fig. 4; Fig. 12 with 11."""
    for number, (setting, both) in enumerate(parts, 1):
        own = _where(both, residual=study.residual)
        if own.runs.empty:
            continue
        what, constrained = _what(setting, own.runs), study.residual != "ordinary"
        yield Picture(
            name=f"{study.name}-{number}",
            caption=f"{_KINDS[study.residual]}: {what}. Above: indices (mean over stages) against coupling "
            "strength; each dot is a network, lines join means. Below: test error against coupling strength"
            + (" (dashed: unconstrained networks)" if constrained else "")
            + "; test error against two indices, lines join the conditions of one width, so of equal parameter count.",
            figure=draw_coupling(own.runs, _where(both, residual="ordinary").runs if constrained else None),
        )
        if study.name == "fig3":
            width = 16 if 16 in set(own.runs["width"]) else int(own.runs["width"].min())
            yield Picture(
                name=f"fig5-{number}",
                caption=f"Fig. 5: error in the course of training, {what}, width {width}. Lines are means over seeds, "
                "bands reach from the lowest to the highest.",
                figure=draw_training(_where(own, width=width).history),
            )
    sets = {setting.label: own.runs for setting, own in parts if own.runs["test_exact_error"].notna().any()}
    if study.name == "fig3" and sets:
        yield _data_sets("fig3-sets", sets)


def _fig7(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    for number, (setting, own) in enumerate(parts, 1):
        yield Picture(
            name=f"{study.name}-{number}",
            caption=f"Effective parameter counts: {_what(setting, own.runs)}. From the left: effective against raw "
            "count (dashed: equal), test error against each, mean normalised deviation of the blocks from their mean.",
            figure=draw_parameters(own.runs),
        )


def _fig8(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    for number, width, what, own in _by_width(parts):
        yield Picture(
            name=f"{study.name}-{number}-width{width}",
            caption=f"Fig. 8, 9, 10: variants, {what}, width {width}: test error, mean normalised deviation of the "
            "blocks from their mean, and indices, against coupling strength. Each dot is a network, lines join means.",
            figure=draw_variants(own.runs),
        )


def _fig13(study: Study, parts: Parts, tables: Tables) -> Iterator[Picture]:
    yield _data_sets("fig13", {setting.label: own.runs for setting, own in parts})


def _data_sets(name: str, settings: dict[str, pd.DataFrame]) -> Picture:
    return Picture(
        name=name,
        caption="Test error against coupling strength. For Digitclutter: above, the share of an image's digits that "
        "is missed; below, the share of images whose set of digits is not exactly right. Each dot is a network, lines "
        "join means; vertical axes differ and need not begin at zero.",
        figure=draw_data_sets(settings),
    )


_PICTURES: dict[str, Callable[[Study, Parts, Tables], Iterator[Picture]]] = {
    "fig1": _fig1,
    "fig2": _fig2,
    "fig3": _coupling,
    "fig4": _coupling,
    "fig7": _fig7,
    "fig8": _fig8,
    "fig12": _coupling,
    "fig13": _fig13,
}
_KINDS = {
    "ordinary": "Ordinary networks",
    "improper": "Improperly convergent networks",
    "proper": "Properly convergent networks",
}
