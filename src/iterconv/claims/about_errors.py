"""The paper's claims about errors and parameters. Source: Lippl et al., Sec. 5.3, C, E.2, F."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.compare import ONE_WIDTH, change, differences, of_strength, select, slopes
from iterconv.claims.findings import Finding, alike_or_worse, always, between, correlation, undecided
from iterconv.studies.tables import Tables

_STRENGTHS = {"a": 0.5, "b": 0.9, "c": 1.0}
_COUPLED = {"residual": "ordinary", "init": "recurrent"}


@claim(
    7,
    "5.3",
    "Stronger coupling raises the error.",
    {part: f"A coupling of {strength:g} raises the error" for part, strength in _STRENGTHS.items()},
    studies=("fig3", "fig13"),
    about=_COUPLED,
)
def coupling_and_error(tables: Tables) -> Iterator[Finding]:
    for part, strength in _STRENGTHS.items():
        higher = change(tables.runs, "test_error", strength)
        yield between(part, f"the error is higher at {strength:g} than at 0, by", higher, low=0)


@claim(
    8,
    "5.3",
    "At 0.5 and 0.9 the rise is smaller for wider nets.",
    {"a": "At 0.5 the error rises less in wider nets", "b": "At 0.9 the error rises less in wider nets"},
    studies=("fig3",),
    about=_COUPLED,
)
def width_and_rise(tables: Tables) -> Iterator[Finding]:
    own, keys = tables.runs, ["width", "seed"]
    for part, strength in (("a", 0.5), ("b", 0.9)):
        statement = f"the rise of the error at {strength} falls with each doubling of the width; it changes by"
        if own["width"].nunique() < 2:
            yield undecided(part, statement, ONE_WIDTH)
            continue
        before = of_strength(own, 0.0).set_index(keys)["test_error"]
        rise = (of_strength(own, strength).set_index(keys)["test_error"] - before).rename("rise").reset_index()
        found = slopes(rise.assign(doublings=np.log2(rise["width"])), "doublings", "rise", [])
        yield between(part, statement, found, high=0)


@claim(
    9,
    "5.3",
    "Across all nets error falls with CI and rises with DI; at equal parameter count it does not.",
    {
        "a": "Across all nets error falls with CI",
        "b": "At equal parameter count it does not fall with CI",
        "c": "Across all nets error rises with DI",
        "d": "At equal parameter count it does not rise with DI",
    },
    studies=("fig3",),
    about={"residual": "ordinary"},
)
def indices_and_error(tables: Tables) -> Iterator[Finding]:
    columns = ["convergence", "divergence", "test_error"]
    # With its sign turned, the one index is expected to rise with the error as the other does.
    own = tables.runs.assign(convergence=-tables.runs["convergence"])
    # Not across conditions of one width alone: lines in Fig. 3c.
    within = own[["seed"]].join(own[columns] - own.groupby(["seed", "width"])[columns].transform("mean"))
    several = own["width"].nunique() > 1
    for (across, equal), index, word in (("ab", "convergence", "falls with CI"), ("cd", "divergence", "rises with DI")):
        statement = f"across all nets error {word} (rank correlation of error and {index}, signed so)"
        same = f"at equal width error no longer {word} (the same within widths is below 0.3)"
        if several:
            yield correlation(across, statement, own, index, "test_error", low=0.0)
            yield correlation(equal, same, within, index, "test_error", high=0.3)
        else:
            yield undecided(across, statement, ONE_WIDTH)
            yield undecided(equal, same, ONE_WIDTH)


@claim(
    10,
    "5.3",
    "ICR has a higher error than the unconstrained net at every strength and width, save 1 at width 16.",
    {
        "a": "ICR has a higher error than ordinary nets, uncoupled",
        "b": "ICR has a higher error, at a coupling of 0.5",
        "c": "ICR has a higher error, at a coupling of 0.9",
        "d": "ICR has a higher error, at a coupling of 1",
    },
    studies=("fig4",),
    about={"residual": ("improper", "ordinary")},
)
def cost_of_convergence(tables: Tables) -> Iterator[Finding]:
    improper, ordinary = (select(tables.runs, residual=residual) for residual in ("improper", "ordinary"))
    for (width, init, strength), condition in improper.groupby(["width", "init", "coupling"]):
        part = {0.0: "a", 0.5: "b", 0.9: "c", 1.0: "d"}.get(strength)
        if part and (width, strength) != (16, 1.0):  # the paper's exception
            added = differences(condition, ordinary, "test_error", ["residual"])
            statement = f"width {width}, coupling {strength:g}, {init} start: ICR has a higher error, by"
            yield between(part, statement, added, low=0)


@claim(
    12,
    "C",
    "Stronger coupling lowers the deviation between blocks, to exactly 0 at 1; EPC lies between tied and "
    "raw count; at equal EPC all strengths perform alike.",
    {
        "a": "The deviation between blocks falls with coupling",
        "b": "The deviation is exactly 0 at 1",
        "c": "EPC lies between tied and raw count",
        "d": "At equal EPC all strengths perform alike",
    },
    studies=("fig7",),
    about=_COUPLED,
)
def effective_parameters(tables: Tables) -> Iterator[Finding]:
    own = tables.runs
    falls = slopes(own, "coupling", "mean_deviation", ["width"])
    yield between("a", "the mean deviation falls from coupling 0 to 1; it changes by", falls, high=0)
    yield always("b", "it is exactly 0 at 1, in a share of runs of", own[own["coupling"] == 1.0]["mean_deviation"] == 0)
    lies = (own["tied"] <= own["effective"]) & (own["effective"] <= own["raw"])
    yield always("c", "EPC lies between tied and raw count, in a share of runs of", lies)
    statement = "at equal EPC, coupling from 0 to 1 changes the error by less than 2 points; it does by"
    if own["width"].nunique() > 1:
        yield between("d", statement, _at_equal_count(own), -0.02, 0.02)
    else:
        yield undecided("d", statement, ONE_WIDTH)


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


@claim(
    16,
    "E.2",
    "PCR performs a little worse than ICR.",
    studies=("fig4", "fig12"),
    about={"residual": ("improper", "proper")},
)
def proper_against_improper(tables: Tables) -> Iterator[Finding]:
    proper, improper = (select(tables.runs, residual=residual) for residual in ("proper", "improper"))
    added = differences(proper, improper, "test_error", ["residual"])
    yield between("", "PCR has a higher error than ICR, by up to 10 points; it has by", added, 0, 0.1)


@claim(
    17,
    "F",
    "On no data set does stronger coupling systematically improve the error, nor with few samples.",
    {part: f"A coupling of {strength:g} does not improve the error" for part, strength in _STRENGTHS.items()},
    studies=("fig3", "fig13"),
    about=_COUPLED,
)
def no_data_set_gains(tables: Tables) -> Iterator[Finding]:
    own = tables.runs
    level = float(own[own["coupling"] == 0.0]["test_error"].mean())
    for part, strength in _STRENGTHS.items():
        statement = f"a coupling of {strength:g} does not improve the error; it changes by"
        yield alike_or_worse(part, statement, change(own, "test_error", strength), level)
