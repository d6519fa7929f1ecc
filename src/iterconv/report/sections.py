"""What a report says about each study: figures with captions, tables, the command to redo it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.coupling import draw_coupling
from iterconv.figures.curves import draw_instances
from iterconv.figures.parameters import draw_parameters
from iterconv.figures.style import condition_label
from iterconv.studies.catalogue import Architecture, Scale, Study
from iterconv.studies.tables import curve_table, index_table, run_table
from iterconv.training.config import RunConfig

INDICES = ["convergence", "recurrence", "divergence"]


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
    runs: pd.DataFrame
    pictures: list[Picture]
    table: pd.DataFrame


def make_section(study: Study, scale: Scale, root: Path) -> Section:
    """Gather a study's finished runs, draw its figures, summarise.

    Args:
        study: The study.
        scale: Its scale.
        root: The folder of all runs.

    Returns:
        The section; without pictures where nothing is finished.
    """
    configs = study.runs(scale)
    runs = run_table(configs, root)
    return Section(
        study=study,
        command=f"iterconv reproduce {study.name} --scale {scale.name}",
        wanted=len(configs),
        runs=runs,
        pictures=list(_pictures(study, scale, root)),
        table=summary(study, scale, root),
    )


def summary(study: Study, scale: Scale, root: Path) -> pd.DataFrame:
    """Means and standard deviations over seeds, one row an architecture, width and condition.

    Args:
        study: The study.
        scale: Its scale.
        root: The folder of all runs.

    Returns:
        A table of text, "mean ± sd"; undefined indices are left out of the mean and counted.
    """
    rows = []
    for architecture in scale.architectures:
        runs = run_table(_runs(study, scale, architecture), root)
        if runs.empty:
            continue
        for (width, coupling, init), group in runs.groupby(["width", "coupling", "init"]):
            rows.append(
                {
                    "network": architecture.label,
                    "width": width,
                    "coupling": condition_label(str(init), float(str(coupling))).replace("\n", " "),
                    "n": len(group),
                    "test error": _spread(group["test_error"], 100, "%"),
                    **{name: _spread(group[name]) for name in INDICES},
                    "effective parameters": _spread(group["effective"], digits=0),
                    "raw": group["raw"].iloc[0],
                }
            )
    return pd.DataFrame(rows)


def _spread(values: pd.Series, factor: float = 1, unit: str = "", digits: int = 2) -> str:
    defined = values.dropna() * factor
    if defined.empty:
        return "undefined"
    text = f"{defined.mean():.{digits}f}"
    text += f" ± {defined.std():.{digits}f}" if len(defined) > 1 else ""
    left_out = len(values) - len(defined)
    return text + (f" {unit}" if unit else "") + (f" ({left_out} undefined)" if left_out else "")


def _runs(study: Study, scale: Scale, architecture: Architecture) -> list[RunConfig]:
    return architecture.runs(study.residual, scale.seeds, study.conditions)


def _pictures(study: Study, scale: Scale, root: Path) -> Iterator[Picture]:
    for number, architecture in enumerate(scale.architectures, 1):
        configs = _runs(study, scale, architecture)
        runs = run_table(configs, root)
        if runs.empty:
            continue
        what = f"{architecture.label}, {runs['data'].iloc[0]}, {runs['seed'].nunique()} seeds"
        if study.name == "fig2":
            for width in sorted(runs["width"].unique()):
                own = [config for config in configs if config.width == width]
                yield Picture(
                    name=f"{study.name}-{number}-width{width}",
                    caption=f"Ordinary networks: {what}, width {width}. Above: test error when one stage is read out "
                    "early, loses one block, or has its last block evaluated again; lines are networks, one is "
                    "emphasised; dashed: chance. Below: the indices by stage (small dots: networks, large ones: "
                    "their means), and test error against two of them.",
                    figure=draw_instances(curve_table(own, root), index_table(own, root), runs[runs["width"] == width]),
                )
        elif study.name == "fig7":
            yield Picture(
                name=f"{study.name}-{number}",
                caption=f"Effective parameter counts: {what}. From the left: effective against raw count (dashed: "
                "equal), test error against each, mean normalised deviation of the blocks from their mean.",
                figure=draw_parameters(runs),
            )
        else:
            baseline = _baseline(study, configs, root)
            yield Picture(
                name=f"{study.name}-{number}",
                caption=f"{_KINDS[study.residual]}: {what}. Above: indices (mean over stages) against coupling "
                "strength; each dot is a network, lines join means. Below: test error against coupling strength"
                + (" (dashed: unconstrained networks)" if baseline is not None and len(baseline) else "")
                + "; test error against two indices, lines join the conditions of one width, so of equal parameter "
                "count.",
                figure=draw_coupling(runs, baseline),
            )


_KINDS = {
    "ordinary": "Ordinary networks",
    "improper": "Improperly convergent networks",
    "proper": "Properly convergent networks",
}


def _baseline(study: Study, configs: list[RunConfig], root: Path) -> pd.DataFrame | None:
    if study.residual == "ordinary":
        return None
    return run_table([replace(config, residual="ordinary") for config in configs], root)
