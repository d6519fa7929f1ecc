"""The paper's claims about errors and parameters. Source: Lippl et al., Sec. 5.3, C, E.2, F."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.compare import (
    SETTING,
    change,
    differences,
    of_several_widths,
    of_strength,
    select,
    settings_of,
    slopes,
)
from iterconv.claims.findings import Finding, alike_or_worse, always, between, correlation, not_testable
from iterconv.studies.tables import Tables


@claim(7, "5.3", "Stronger coupling raises the error.")
def coupling_and_error(tables: Tables) -> Iterator[Finding]:
    for name, own in settings_of(select(tables.runs, residual="ordinary", init="recurrent")):
        for strength in (0.5, 0.9, 1.0):
            higher = change(own, "test_error", strength)
            yield between(f"{name}: the error is higher at {strength:g} than at 0, by", higher, low=0)


@claim(8, "5.3", "At 0.5 and 0.9 the rise is smaller for wider nets.")
def width_and_rise(tables: Tables) -> Iterator[Finding]:
    several, lacking = of_several_widths(select(tables.runs, residual="ordinary", init="recurrent"))
    if lacking:
        yield not_testable("the rise of the error falls with the width", "one width only")
    for name, own in several:
        for strength in (0.5, 0.9):
            statement = f"{name}: the rise of the error at {strength} falls with each doubling of the width"
            keys = ["width", "seed"]
            before = of_strength(own, 0.0).set_index(keys)["test_error"]
            rise = (of_strength(own, strength).set_index(keys)["test_error"] - before).rename("rise").reset_index()
            found = slopes(rise.assign(doublings=np.log2(rise["width"])), "doublings", "rise", [])
            yield between(statement, found, high=0)


@claim(9, "5.3", "Across all nets error falls with CI and rises with DI; at equal parameter count it does not.")
def indices_and_error(tables: Tables) -> Iterator[Finding]:
    several, lacking = of_several_widths(select(tables.runs, residual="ordinary"))
    if lacking:
        yield not_testable("across all nets error goes with the indices", "one width only")
    for name, own in several:
        columns = ["convergence", "divergence", "test_error"]
        # With its sign turned, the one index is expected to rise with the error as the other does.
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
    improper, ordinary = (select(tables.runs, residual=residual) for residual in ("improper", "ordinary"))
    for name, own in settings_of(improper):
        for (width, init, strength), condition in own.groupby(["width", "init", "coupling"]):
            if (width, strength) == (16, 1.0):
                continue  # the paper's exception
            added = differences(condition, ordinary, "test_error", ["residual"])
            statement = f"{name}: width {width}, coupling {strength:g}, {init} start: ICR has a higher error, by"
            yield between(statement, added, low=0)


@claim(
    12,
    "C",
    "Stronger coupling lowers the deviation between blocks, to exactly 0 at 1; EPC lies between tied and "
    "raw count; at equal EPC all strengths perform alike.",
)
def effective_parameters(tables: Tables) -> Iterator[Finding]:
    for name, own in settings_of(select(tables.runs, residual="ordinary", init="recurrent")):
        found = slopes(own, "coupling", "mean_deviation", ["width"])
        yield between(f"{name}: the mean deviation falls with coupling, from 0 to 1 by", found, high=0)
        yield always(f"{name}: it is exactly 0 at 1", own[own["coupling"] == 1.0]["mean_deviation"] == 0)
        lies = (own["tied"] <= own["effective"]) & (own["effective"] <= own["raw"])
        yield always(f"{name}: EPC lies between tied and raw count", lies)
    several, lacking = of_several_widths(select(tables.runs, residual="ordinary", init="recurrent"))
    if lacking:
        yield not_testable("at equal EPC, coupling does not change the error", "one width only")
    for name, own in several:
        statement = f"{name}: at equal EPC, coupling from 0 to 1 changes the error by less than 2 points"
        yield between(statement, _at_equal_count(own), -0.02, 0.02)


def _at_equal_count(runs: pd.DataFrame) -> pd.Series:
    """The coefficient of coupling in least squares of the error on log EPC and coupling, for each seed."""
    found = {}
    for seed, own in runs.groupby("seed"):
        columns = [np.ones(len(own)), np.log(own["effective"].astype(float)), own["coupling"].astype(float)]
        # With as many coefficients as runs, every line fits.
        if len(own) > len(columns):
            found[seed] = float(
                np.linalg.lstsq(np.stack(columns, 1), own["test_error"].astype(float), rcond=None)[0][2]
            )
    return pd.Series(found, dtype=float).rename_axis("seed")


@claim(16, "E.2", "PCR performs a little worse than ICR.")
def proper_against_improper(tables: Tables) -> Iterator[Finding]:
    proper, improper = (select(tables.runs, residual=residual) for residual in ("proper", "improper"))
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
    settings = settings_of(select(tables.runs, residual="ordinary", init="recurrent"))
    for name, own in settings:
        level = float(own[own["coupling"] == 0.0]["test_error"].mean())
        for strength in (0.5, 0.9, 1.0):
            statement = f"{name}: coupling of {strength:g} does not improve the error"
            yield alike_or_worse(statement, change(own, "test_error", strength), level)
    data = [tuple(own[SETTING[:1]].iloc[0]) for _, own in settings]
    if settings and len(set(data)) < 2:
        yield not_testable("on several data sets", "one data set only")
    if settings and len(set(data)) == len(data):
        yield not_testable("with few samples", "no data set is there with fewer samples too")
