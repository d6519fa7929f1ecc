"""The paper's claims about the indices. Source: Lippl et al., Sec. 3.3, 5.1, 5.2, B.

Bounds for words such as "close to" are in the findings' statements; they are ours.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.compare import by_seed, change, of_several_widths, select, settings_of, slopes
from iterconv.claims.findings import Finding, between, correlation, not_testable
from iterconv.studies.tables import Tables, prediction_indices


@claim(
    3,
    "3.3",
    "Ordinary nets: RI close to 1; dropping any block but the first hardly matters; DI clearly above 0, "
    "lowest in stage 1.",
)
def ordinary_networks(tables: Tables) -> Iterator[Finding]:
    ordinary = select(tables.runs, residual="ordinary", init="independent", coupling=0.0)
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
    for name, own in settings_of(select(tables.runs, residual="ordinary", init="recurrent")):
        for since, to in ((0.0, 0.5), (0.5, 0.9)):
            higher = change(own, "convergence", to, since)
            yield between(f"{name}: CI is higher at {to:g} than at {since:g}", higher, low=0)
            yield between(
                f"{name}: DI is lower at {to:g} than at {since:g}", change(own, "divergence", to, since), high=0
            )
        yield between(f"{name}: RI is from 0.8 to 1.2", by_seed(own, "recurrence"), 0.8, 1.2)
        yield between(f"{name}: CI is not higher at 1 than at 0.9", change(own, "convergence", 1.0, 0.9), high=0)
        yield between(f"{name}: DI is not lower at 1 than at 0.9", change(own, "divergence", 1.0, 0.9), low=0)


@claim(5, "5.1", "Wider nets have higher CI and lower DI.")
def width_and_indices(tables: Tables) -> Iterator[Finding]:
    several, lacking = of_several_widths(select(tables.runs, residual="ordinary"))
    if lacking:
        yield not_testable("wider nets have a higher CI and a lower DI", "one width only")
    for name, own in several:
        doubled = own.assign(doublings=np.log2(own["width"]))
        for index, word, bounds in (("convergence", "rises", {"low": 0.0}), ("divergence", "falls", {"high": 0.0})):
            found = slopes(doubled, "doublings", index, ["init", "coupling"])
            yield between(f"{name}: {index} index {word} with each doubling of the width", found, **bounds)


@claim(6, "5.2", "ICR and PCR: high CI, DI almost zero, RI around 1.")
def constrained_indices(tables: Tables) -> Iterator[Finding]:
    for residual, kind in (("improper", "ICR"), ("proper", "PCR")):
        for name, own in settings_of(select(tables.runs, residual=residual)):
            yield between(f"{name}: {kind}: CI is above 0.8", by_seed(own, "convergence"), low=0.8)
            yield between(f"{name}: {kind}: DI is from -0.1 to 0.1", by_seed(own, "divergence"), -0.1, 0.1)
            yield between(f"{name}: {kind}: RI is from 0.8 to 1.2", by_seed(own, "recurrence"), 0.8, 1.2)


@claim(11, "B", "Indices against the model's own predictions lead to the same conclusions.")
def own_predictions(tables: Tables) -> Iterator[Finding]:
    ordinary = select(tables.runs, residual="ordinary")
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
            # The index against labels tells the direction, and the other one has to follow it.
            direction = np.sign(change(own, index, 0.9).mean())
            statement = f"{name}: coupling of 0.9 moves both {index} indices the same way (the own one by, so signed)"
            yield between(statement, direction * change(other, index, 0.9), low=0)
        statement = f"{name}: both recurrence indices are within 0.2 of each other"
        apart = other.set_index("name")["recurrence"].reindex(own["name"]).to_numpy() - own["recurrence"]
        yield between(statement, by_seed(own.assign(apart=apart), "apart"), -0.2, 0.2)
