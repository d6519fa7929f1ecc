"""The paper's claims, each a function from the tables of runs to findings. Source: Lippl et al., Sec. 3.2 to F.

Bounds for words such as "close to" are in the findings' statements; they are ours.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iterconv.claims.findings import (
    SETTING,
    Finding,
    alike_or_worse,
    always,
    between,
    by_seed,
    chosen,
    correlation,
    differences,
    missing,
    settings_of,
    slopes,
)
from iterconv.studies.tables import Tables, prediction_indices

Find = Callable[[Tables], Iterator[Finding]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper and what finds out about it."""

    number: int
    section: str
    statement: str
    find: Find
    everywhere: bool
    """Whether it has to hold in every setting that is tested, not just in some and against none."""


CLAIMS: list[Claim] = []
"""In the paper's order."""


def claim(number: int, section: str, statement: str, *, everywhere: bool = False) -> Callable[[Find], Find]:
    """Enter a function as what finds out about a claim; its number stays the same whatever is defined before it."""

    def enter(find: Find) -> Find:
        CLAIMS.append(Claim(number=number, section=section, statement=statement, find=find, everywhere=everywhere))
        return find

    return enter


def _recurrent(runs: pd.DataFrame, strength: float, residual: str = "ordinary", **more: object) -> pd.DataFrame:
    return chosen(runs, init="recurrent", coupling=strength, residual=residual, **more)


def _change(runs: pd.DataFrame, column: str, to: float, since: float = 0.0) -> pd.Series:
    """What raising the coupling strength does to a column, for nets that are otherwise alike."""
    return differences(_recurrent(runs, to), _recurrent(runs, since), column, ["coupling"])


def _of_several_widths(runs: pd.DataFrame) -> tuple[list[tuple[str, pd.DataFrame]], bool]:
    """The settings with two widths or more, and whether all of the settings that there are lack them."""
    settings = settings_of(runs)
    several = [(name, own) for name, own in settings if own["width"].nunique() > 1]
    return several, bool(settings) and not several


def _toy(tables: Tables, family: str, column: str, kind: str) -> pd.DataFrame:
    """One row a seed, one column a position."""
    toy = tables.toy
    own = toy[(toy["point"] < 0) & (toy["perturbation"] == family) & (toy["kind"] == kind)]
    return own.pivot(index="seed", columns="position", values=column)


@claim(
    1,
    "3.2",
    "Early read-outs of residual nets approach the final estimate smoothly; those of nets without skips do not.",
)
def smooth_readouts(tables: Tables) -> Iterator[Finding]:
    """The detour is how far the distance to the final estimate moves in all, over how far it has to, less 1."""
    if tables.toy.empty:
        return
    detours = {}
    for kind in ("residual", "feedforward"):
        distance = _toy(tables, "early read-out", "distance", kind)
        if distance.empty:
            yield missing(f"toy: early read-outs of {kind} nets", "no such network is finished")
            return
        moved = distance.diff(axis=1).abs().sum(axis=1)
        detours[kind] = moved / (distance.iloc[:, 0] - distance.iloc[:, -1]) - 1
    yield between("toy: read-outs of residual nets make a detour below 0.5", detours["residual"], high=0.5)
    yield between(
        "toy: those of nets without shortcuts make a larger one",
        detours["feedforward"].sub(detours["residual"]).dropna(),
        low=0,
    )


@claim(2, "3.2", "Trained nets overshoot when the last block is repeated; the iterative algorithm stays.")
def overshoot(tables: Tables) -> Iterator[Finding]:
    if tables.toy.empty:
        return
    for kind in ("residual", "recurrent", "exact"):
        errors = _toy(tables, "extra evaluation", "rmse", kind)
        added = (errors.iloc[:, -1] - errors.iloc[:, 0]) if len(errors) else pd.Series(dtype=float)
        if kind == "exact":
            yield always("toy: 16 extra evaluations leave the iterative algorithm's error within 0.001", added <= 0.001)
        else:
            yield between(f"toy: 16 extra evaluations raise the error of trained {kind} nets", added, low=0)


@claim(
    3,
    "3.3",
    "Ordinary nets: RI close to 1; dropping any block but the first hardly matters; DI clearly above 0, "
    "lowest in stage 1.",
)
def ordinary_networks(tables: Tables) -> Iterator[Finding]:
    ordinary = chosen(tables.runs, residual="ordinary", init="independent", coupling=0.0)
    for name, own in settings_of(ordinary):
        yield between(f"{name}: RI is from 0.8 to 1.2", by_seed(own, "recurrence"), 0.8, 1.2)
        yield between(
            f"{name}: dropping a block but the first costs under a tenth of what is above chance",
            _cost_of_dropping(tables, own),
            high=0.1,
        )
        yield between(f"{name}: DI is above 0.05", by_seed(own, "divergence"), low=0.05)
        if own["stages"].iloc[0] > 1:
            by_stage = tables.indices[
                tables.indices["name"].isin(own["name"]) & (tables.indices["index"] == "divergence")
            ].pivot(index="name", columns="stage", values="value")
            by_stage.index = own.set_index("name")["seed"].reindex(by_stage.index).rename("seed")
            for stage in (stage for stage in by_stage if stage not in (0, "mean")):
                above = by_stage[stage].astype(float) - by_stage[0].astype(float)
                yield between(f"{name}: DI is lower in stage 1 than in stage {stage + 1}", above, low=0)


def _cost_of_dropping(tables: Tables, runs: pd.DataFrame) -> pd.Series:
    curves = tables.curves[tables.curves["name"].isin(runs["name"]) & (tables.curves["metric"] == "error")]
    dropped = curves[(curves["perturbation"] == "drop-out") & (curves["position"] > 1)].groupby("name")["value"].mean()
    own = runs.assign(dropped=runs["name"].map(dropped))
    cost = (own["dropped"] - own["test_error"]) / (own["chance"] - own["test_error"])
    return by_seed(own.assign(cost=cost), "cost")


@claim(4, "5.1", "Stronger coupling raises CI and lowers DI, up to 0.9; RI stays around 1; the trend breaks at 1.")
def coupling_and_indices(tables: Tables) -> Iterator[Finding]:
    for name, own in settings_of(chosen(tables.runs, residual="ordinary", init="recurrent")):
        for since, to in ((0.0, 0.5), (0.5, 0.9)):
            higher = _change(own, "convergence", to, since)
            yield between(f"{name}: CI is higher at {to:g} than at {since:g}", higher, low=0)
            yield between(
                f"{name}: DI is lower at {to:g} than at {since:g}", _change(own, "divergence", to, since), high=0
            )
        yield between(f"{name}: RI is from 0.8 to 1.2", by_seed(own, "recurrence"), 0.8, 1.2)
        yield between(f"{name}: CI is not higher at 1 than at 0.9", _change(own, "convergence", 1.0, 0.9), high=0)
        yield between(f"{name}: DI is not lower at 1 than at 0.9", _change(own, "divergence", 1.0, 0.9), low=0)


@claim(5, "5.1", "Wider nets have higher CI and lower DI.")
def width_and_indices(tables: Tables) -> Iterator[Finding]:
    several, lacking = _of_several_widths(chosen(tables.runs, residual="ordinary"))
    if lacking:
        yield missing("wider nets have a higher CI and a lower DI", "one width only")
    for name, own in several:
        doubled = own.assign(doublings=np.log2(own["width"]))
        for index, word, bounds in (("convergence", "rises", {"low": 0.0}), ("divergence", "falls", {"high": 0.0})):
            found = slopes(doubled, "doublings", index, ["init", "coupling"])
            yield between(f"{name}: {index} index {word} with each doubling of the width", found, **bounds)


@claim(6, "5.2", "ICR and PCR: high CI, DI almost zero, RI around 1.")
def constrained_indices(tables: Tables) -> Iterator[Finding]:
    for residual, kind in (("improper", "ICR"), ("proper", "PCR")):
        for name, own in settings_of(chosen(tables.runs, residual=residual)):
            yield between(f"{name}: {kind}: CI is above 0.8", by_seed(own, "convergence"), low=0.8)
            yield between(f"{name}: {kind}: DI is from -0.1 to 0.1", by_seed(own, "divergence"), -0.1, 0.1)
            yield between(f"{name}: {kind}: RI is from 0.8 to 1.2", by_seed(own, "recurrence"), 0.8, 1.2)


@claim(7, "5.3", "Stronger coupling raises the error.")
def coupling_and_error(tables: Tables) -> Iterator[Finding]:
    for name, own in settings_of(chosen(tables.runs, residual="ordinary", init="recurrent")):
        for strength in (0.5, 0.9, 1.0):
            higher = _change(own, "test_error", strength)
            yield between(f"{name}: the error is higher at {strength:g} than at 0, by", higher, low=0)


@claim(8, "5.3", "At 0.5 and 0.9 the rise is smaller for wider nets.")
def width_and_rise(tables: Tables) -> Iterator[Finding]:
    several, lacking = _of_several_widths(chosen(tables.runs, residual="ordinary", init="recurrent"))
    if lacking:
        yield missing("the rise of the error falls with the width", "one width only")
    for name, own in several:
        for strength in (0.5, 0.9):
            statement = f"{name}: the rise of the error at {strength} falls with each doubling of the width"
            keys = ["width", "seed"]
            before = _recurrent(own, 0.0).set_index(keys)["test_error"]
            rise = (_recurrent(own, strength).set_index(keys)["test_error"] - before).rename("rise").reset_index()
            found = slopes(rise.assign(doublings=np.log2(rise["width"])), "doublings", "rise", [])
            yield between(statement, found, high=0)


@claim(9, "5.3", "Across all nets error falls with CI and rises with DI; at equal parameter count it does not.")
def indices_and_error(tables: Tables) -> Iterator[Finding]:
    several, lacking = _of_several_widths(chosen(tables.runs, residual="ordinary"))
    if lacking:
        yield missing("across all nets error goes with the indices", "one width only")
    for name, own in several:
        columns = ["convergence", "divergence", "test_error"]
        own = own.assign(convergence=-own["convergence"])
        # Not across conditions of one width alone: lines in Fig. 3c.
        within = own[columns] - own.groupby(["seed", "width"])[columns].transform("mean")
        for index, word in (("convergence", "falls with CI"), ("divergence", "rises with DI")):
            statement = f"{name}: across all nets error {word} (rank correlation of error and {index}, signed so)"
            yield correlation(statement, own, index, "test_error", low=0.0)
            statement = f"{name}: at equal width error no longer {word} (the same within widths is below 0.3)"
            yield correlation(statement, within.assign(seed=own["seed"]), index, "test_error", high=0.3)


@claim(
    10,
    "5.3",
    "ICR has a higher error than the unconstrained net at every strength and width, save 1 at width 16.",
    everywhere=True,
)
def cost_of_convergence(tables: Tables) -> Iterator[Finding]:
    improper, ordinary = (chosen(tables.runs, residual=residual) for residual in ("improper", "ordinary"))
    for name, own in settings_of(improper):
        for (width, init, strength), condition in own.groupby(["width", "init", "coupling"]):
            if (width, strength) == (16, 1.0):
                continue  # the paper's exception
            added = differences(condition, ordinary, "test_error", ["residual"])
            statement = f"{name}: width {width}, coupling {strength:g}, {init} start: ICR has a higher error, by"
            yield between(statement, added, low=0)


@claim(11, "B", "Indices against the model's own predictions lead to the same conclusions.")
def own_predictions(tables: Tables) -> Iterator[Finding]:
    ordinary = chosen(tables.runs, residual="ordinary")
    if ordinary.empty or tables.curves.empty or "disagreement" not in set(tables.curves["metric"]):
        return
    found = prediction_indices(tables.named(ordinary["name"]))
    if found.empty:
        return
    found = found[found["stage"] == "mean"].pivot(index="name", columns="index", values="value")
    for name, own in settings_of(ordinary):
        other = own.drop(columns=["convergence", "recurrence", "divergence"]).merge(found, on="name")
        for index in ("convergence", "divergence"):
            both = own[["name", "seed", index]].merge(other[["name", index]], on="name", suffixes=("", "_own"))
            statement = f"{name}: both {index} indices order the nets alike (rank correlation above 0.5)"
            yield correlation(statement, both, index, f"{index}_own", low=0.5)
            direction = np.sign(_change(own, index, 0.9).mean())
            statement = f"{name}: coupling of 0.9 moves both {index} indices the same way (the own one by, so signed)"
            yield between(statement, direction * _change(other, index, 0.9), low=0)
        statement = f"{name}: both recurrence indices are within 0.2 of each other"
        apart = other.set_index("name")["recurrence"].reindex(own["name"]).to_numpy() - own["recurrence"]
        yield between(statement, by_seed(own.assign(apart=apart), "apart"), -0.2, 0.2)


@claim(
    12,
    "C",
    "Stronger coupling lowers the deviation between blocks, to exactly 0 at 1; EPC lies between tied and "
    "raw count; at equal EPC all strengths perform alike.",
)
def effective_parameters(tables: Tables) -> Iterator[Finding]:
    for name, own in settings_of(chosen(tables.runs, residual="ordinary", init="recurrent")):
        found = slopes(own, "coupling", "mean_deviation", ["width"])
        yield between(f"{name}: the mean deviation falls with coupling, from 0 to 1 by", found, high=0)
        yield always(f"{name}: it is exactly 0 at 1", own[own["coupling"] == 1.0]["mean_deviation"] == 0)
        lies = (own["tied"] <= own["effective"]) & (own["effective"] <= own["raw"])
        yield always(f"{name}: EPC lies between tied and raw count", lies)
    several, lacking = _of_several_widths(chosen(tables.runs, residual="ordinary", init="recurrent"))
    if lacking:
        yield missing("at equal EPC, coupling does not change the error", "one width only")
    for name, own in several:
        statement = f"{name}: at equal EPC, coupling from 0 to 1 changes the error by less than 2 points"
        yield between(statement, _at_equal_count(own), -0.02, 0.02)


def _at_equal_count(runs: pd.DataFrame) -> pd.Series:
    """The coefficient of coupling in least squares of the error on log EPC and coupling, for each seed."""
    found = {}
    for seed, own in runs.groupby("seed"):
        columns = [np.ones(len(own)), np.log(own["effective"].astype(float)), own["coupling"].astype(float)]
        if len(own) > len(columns):
            found[seed] = float(
                np.linalg.lstsq(np.stack(columns, 1), own["test_error"].astype(float), rcond=None)[0][2]
            )
    return pd.Series(found, dtype=float).rename_axis("seed")


@claim(13, "D.1", "An initial norm scale of 0.1 helps at 0.9 and at no other strength.")
def small_norm_scale(tables: Tables) -> Iterator[Finding]:
    plain = chosen(tables.runs, residual="ordinary")
    small = chosen(tables.runs, residual="ordinary", norm_scale=0.1)
    for name, own in settings_of(small):
        for init, strength in sorted(set(zip(own["init"], own["coupling"], strict=True)), key=lambda c: (c[1], c[0])):
            condition = own[(own["init"] == init) & (own["coupling"] == strength)]
            change = differences(condition, plain, "test_error", ["norm_scale"])
            if strength == 0.9:
                yield between(f"{name}: norm scale 0.1 lowers the error at 0.9, to less by", -change, low=0)
            else:
                level = float(chosen(plain, init=init, coupling=strength)["test_error"].mean())
                yield alike_or_worse(f"{name}: at {strength:g} ({init} start) it does not", change, level)


@claim(14, "D.2", "The triangular kernel beats the uniform one at the same strength; neither beats the ordinary net.")
def triangular_kernel(tables: Tables) -> Iterator[Finding]:
    yield from _variant_beats(tables, "the triangular kernel", {"kernel": "triangular"}, ["kernel"])


@claim(15, "D.3", "Late coupling beats coupling from block 0, and not the ordinary net.")
def late_coupling(tables: Tables) -> Iterator[Finding]:
    later = tuple(sorted(set(tables.runs["first_coupled"]) - {0})) if len(tables.runs) else ()
    yield from _variant_beats(tables, "late coupling", {"first_coupled": later}, ["first_coupled"])


def _variant_beats(tables: Tables, what: str, values: dict[str, object], field: list[str]) -> Iterator[Finding]:
    """A variant has a lower error than the standard at the same strength, and neither than the ordinary net."""
    plain = chosen(tables.runs, residual="ordinary", init="recurrent")
    for name, own in settings_of(chosen(tables.runs, residual="ordinary", init="recurrent", **values)):
        own = own[own["coupling"] > 0]
        lower = differences(plain, own, "test_error", field)
        yield between(f"{name}: {what} has a lower error than the standard, by", lower, low=0)
        uncoupled = chosen(tables.runs, residual="ordinary", init="independent", coupling=0.0)
        against = differences(own, uncoupled, "test_error", ["coupling", "init", *field])
        level = float(uncoupled["test_error"].mean())
        yield alike_or_worse(f"{name}: {what} does not beat the ordinary net", against, level)


@claim(16, "E.2", "PCR performs a little worse than ICR.")
def proper_against_improper(tables: Tables) -> Iterator[Finding]:
    proper, improper = (chosen(tables.runs, residual=residual) for residual in ("proper", "improper"))
    for name, own in settings_of(proper):
        added = differences(own, improper, "test_error", ["residual"])
        yield between(f"{name}: PCR has a higher error than ICR, by up to 10 points", added, 0, 0.1)


@claim(
    17,
    "F",
    "On no data set does stronger coupling systematically improve the error, nor with few samples.",
    everywhere=True,
)
def no_data_set_gains(tables: Tables) -> Iterator[Finding]:
    settings = settings_of(chosen(tables.runs, residual="ordinary", init="recurrent"))
    for name, own in settings:
        level = float(own[own["coupling"] == 0.0]["test_error"].mean())
        for strength in (0.5, 0.9, 1.0):
            statement = f"{name}: coupling of {strength:g} does not improve the error"
            yield alike_or_worse(statement, _change(own, "test_error", strength), level)
    data = [tuple(own[SETTING[:1]].iloc[0]) for _, own in settings]
    if settings and len(set(data)) < 2:
        yield missing("on several data sets", "one data set only")
    if settings and len(set(data)) == len(data):
        yield missing("with few samples", "no data set is there with fewer samples too")
