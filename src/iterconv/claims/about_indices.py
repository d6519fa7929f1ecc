"""The paper's claims about the indices. Source: Lippl et al., Sec. 3.3, 5.1, 5.2, B.

Bounds for words such as "close to" are in the findings' statements; they are ours.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.compare import ONE_WIDTH, by_seed, change, select, slopes
from iterconv.claims.findings import Finding, between, correlation, undecided
from iterconv.studies.tables import Tables, prediction_indices


@claim(
    3,
    "3.3",
    "Ordinary nets: RI close to 1; dropping any block but the first hardly matters; DI clearly above 0, "
    "lowest in stage 1.",
    {
        "a": "Ordinary nets have an RI close to 1",
        "b": "Dropping any block but the first hardly matters",
        "c": "DI is clearly above 0",
        "d": "DI is lowest in stage 1",
    },
    studies=("fig2", "fig3", "fig13"),
    about={"residual": "ordinary", "init": "independent", "coupling": 0.0},
)
def ordinary_networks(tables: Tables) -> Iterator[Finding]:
    own = tables.runs
    yield between("a", "RI is from 0.8 to 1.2", by_seed(own, "recurrence"), 0.8, 1.2, index="recurrence")
    dropping = "dropping a block but the first costs under a tenth of what is above chance"
    yield between("b", dropping, _cost_of_dropping(tables), high=0.1)
    yield between("c", "DI is above 0.05", by_seed(own, "divergence"), low=0.05, index="divergence")
    mine = tables.indices["name"].isin(own["name"]) & (tables.indices["index"] == "divergence")
    by_stage = tables.indices[mine].pivot(index="name", columns="stage", values="value")
    by_stage.index = own.set_index("name")["seed"].reindex(by_stage.index).rename("seed")
    for stage in (stage for stage in by_stage if stage not in (0, "mean")):
        above = by_stage[stage].astype(float) - by_stage[0].astype(float)
        yield between("d", f"DI is lower in stage 1 than in stage {stage + 1}, by", above, low=0)


def _cost_of_dropping(tables: Tables) -> pd.Series:
    runs, curves = tables.runs, tables.curves
    dropped = curves[(curves["metric"] == "error") & (curves["perturbation"] == "drop-out") & (curves["position"] > 1)]
    own = runs.assign(dropped=runs["name"].map(dropped.groupby("name")["value"].mean()))
    cost = (own["dropped"] - own["test_error"]) / (own["chance"] - own["test_error"])
    return by_seed(own.assign(cost=cost), "cost")


@claim(
    4,
    "5.1",
    "Stronger coupling raises CI and lowers DI, up to 0.9; RI stays around 1; the trend breaks at 1.",
    {
        "a": "CI rises with coupling, up to 0.9",
        "b": "DI falls with coupling, up to 0.9",
        "c": "RI stays around 1",
        "d": "The trend breaks at 1",
    },
    studies=("fig3", "fig13"),
    about={"residual": "ordinary", "init": "recurrent"},
)
def coupling_and_indices(tables: Tables) -> Iterator[Finding]:
    own = tables.runs
    for since, to in ((0.0, 0.5), (0.5, 0.9)):
        rise, fall = change(own, "convergence", to, since), change(own, "divergence", to, since)
        yield between("a", f"CI is higher at {to:g} than at {since:g}, by", rise, low=0)
        yield between("b", f"DI is lower at {to:g} than at {since:g}; it changes by", fall, high=0)
    yield between("c", "RI is from 0.8 to 1.2", by_seed(own, "recurrence"), 0.8, 1.2, index="recurrence")
    last = {index: change(own, index, 1.0, 0.9) for index in ("convergence", "divergence")}
    yield between("d", "CI is not higher at 1 than at 0.9; it changes by", last["convergence"], high=0)
    yield between("d", "DI is not lower at 1 than at 0.9; it changes by", last["divergence"], low=0)


@claim(
    5,
    "5.1",
    "Wider nets have higher CI and lower DI.",
    {"a": "Wider nets have a higher CI", "b": "Wider nets have a lower DI"},
    studies=("fig3",),
    about={"residual": "ordinary"},
)
def width_and_indices(tables: Tables) -> Iterator[Finding]:
    doubled = tables.runs.assign(doublings=np.log2(tables.runs["width"]))
    for part, index, low, high in (("a", "convergence", 0.0, np.inf), ("b", "divergence", -np.inf, 0.0)):
        statement = f"with each doubling of the width, the {index} index {'rises' if part == 'a' else 'falls'}, by"
        if doubled["width"].nunique() > 1:
            yield between(part, statement, slopes(doubled, "doublings", index, ["init", "coupling"]), low, high)
        else:
            yield undecided(part, statement, ONE_WIDTH)


@claim(
    6,
    "5.2",
    "ICR and PCR: high CI, DI almost zero, RI around 1.",
    {
        "a": "ICR: CI is high",
        "b": "ICR: DI is almost zero",
        "c": "ICR: RI is around 1",
        "d": "PCR: CI is high",
        "e": "PCR: DI is almost zero",
        "f": "PCR: RI is around 1",
    },
    studies=("fig4", "fig12"),
    about={"residual": ("improper", "proper")},
)
def constrained_indices(tables: Tables) -> Iterator[Finding]:
    for residual, (high, zero, one) in (("improper", "abc"), ("proper", "def")):
        own = select(tables.runs, residual=residual)
        # Uncoupled and coupled networks may differ, and their mean would be that of no network.
        for which, nets in {"uncoupled": own[own["coupling"] == 0], "coupled": own[own["coupling"] > 0]}.items():
            if nets.empty:
                continue
            ci, ri, di = (by_seed(nets, index) for index in ("convergence", "recurrence", "divergence"))
            yield between(high, f"{which}: CI is above 0.8", ci, low=0.8, index="convergence")
            yield between(zero, f"{which}: DI is from -0.1 to 0.1", di, -0.1, 0.1, index="divergence")
            yield between(one, f"{which}: RI is from 0.8 to 1.2", ri, 0.8, 1.2, index="recurrence")


@claim(
    11,
    "B",
    "Indices against the model's own predictions lead to the same conclusions.",
    {
        "a": "Both CI order nets alike",
        "b": "Coupling moves both CI alike",
        "c": "Both DI order nets alike",
        "d": "Coupling moves both DI alike",
        "e": "Both RI are close",
    },
    studies=("fig3",),
    about={"residual": "ordinary"},
)
def own_predictions(tables: Tables) -> Iterator[Finding]:
    own = tables.runs
    found = _own_indices(tables)
    if found.empty:
        return
    other = own.drop(columns=["convergence", "recurrence", "divergence"]).merge(found, on="name")
    for (alike, moves), index in (("ab", "convergence"), ("cd", "divergence")):
        both = own[["name", "seed", index]].merge(other[["name", index]], on="name", suffixes=("", "_own"))
        statement = f"both {index} indices order the nets alike (rank correlation above 0.5)"
        yield correlation(alike, statement, both, index, f"{index}_own", low=0.5)
        # The index against labels tells the direction, and the other one has to follow it.
        direction = np.sign(change(own, index, 0.9).mean())
        statement = f"coupling of 0.9 moves both {index} indices the same way (the own one by, so signed)"
        yield between(moves, statement, direction * change(other, index, 0.9), low=0)
    apart = other.set_index("name")["recurrence"].reindex(own["name"]).to_numpy() - own["recurrence"]
    statement = "both recurrence indices are within 0.2 of each other"
    yield between("e", statement, by_seed(own.assign(apart=apart), "apart"), -0.2, 0.2)


def _own_indices(tables: Tables) -> pd.DataFrame:
    """The mean indices against own predictions, one row a run; empty where these were not measured."""
    if tables.curves.empty or "disagreement" not in set(tables.curves["metric"]):
        return pd.DataFrame()
    found = prediction_indices(tables.named(tables.runs["name"]))
    return (
        found if found.empty else found[found["stage"] == "mean"].pivot(index="name", columns="index", values="value")
    )
