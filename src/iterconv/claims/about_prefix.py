"""Claims of our own about prefix sums: is convergence the right bias there, and does coupling help to get it?"""

from collections.abc import Iterator
from typing import get_args

import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.compare import by_seed, slopes
from iterconv.claims.findings import Finding, always, between
from iterconv.indices import INDICES
from iterconv.options import Beyond
from iterconv.studies.extrapolation import ALWAYS, SETTLED
from iterconv.studies.tables import Tables

RIGHT = 0.945
"""The share of right strings above which a net counts as having carried its task to a length: 19 of 20, rounded."""
LOST = 1e6
"""The largest relative step that is told from a state that is not finite."""
CONDITION = ["name", "lacks", "init", "coupling", "seed", "beyond", "length"]


def at_the_end(tables: Tables, **values: object) -> pd.DataFrame:
    """Select the last read-out of each net, rule and length, by the values of columns."""
    rows = tables.prefix
    if rows.empty:
        return pd.DataFrame(columns=[*CONDITION, "accuracy", "residual"])
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows[rows["iterations"] == rows.groupby(CONDITION)["iterations"].transform("max")]


def longest(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of the longest strings."""
    return rows[rows["length"] == rows["length"].max()]


def _recurrent(rows: pd.DataFrame, coupling: float | None = None) -> pd.DataFrame:
    rows = rows[rows["init"] == "recurrent"]
    return rows if coupling is None else rows[rows["coupling"] == coupling]


def _lengths(rows: pd.DataFrame) -> str:
    return f"{int(rows['length'].max())} bits" if len(rows) else "the longest strings"


@claim("P1", "", "Tied nets with recall, progressive loss and norm carry prefix sums to strings many times as long.")
def tied_nets_extrapolate(tables: Tables) -> Iterator[Finding]:
    rows = longest(_recurrent(at_the_end(tables, lacks="nothing", beyond="last"), 1.0))
    if len(rows):
        statement = f"prefix sums: share of right strings of {_lengths(rows)} after the last iteration is above 0.95"
        yield between(statement, by_seed(rows, "accuracy"), low=RIGHT)


@claim("P2", "", "With the full recipe, stronger coupling lets untied nets carry prefix sums further.")
def coupling_helps(tables: Tables) -> Iterator[Finding]:
    rows = _recurrent(at_the_end(tables, lacks="nothing"))
    for rule in get_args(Beyond):
        for length, own in rows[rows["beyond"] == rule].groupby("length"):
            if length > rows["length"].min():
                statement = f"prefix sums, {_rule(rule)}: accuracy on {length} bits rises with coupling, from 0 to 1 by"
                yield between(statement, slopes(own, "coupling", "accuracy", []), low=0)


@claim("P3", "", "Partial coupling is enough: at 0.9, untied nets carry prefix sums as far as tied ones.")
def partial_coupling_is_enough(tables: Tables) -> Iterator[Finding]:
    rows = longest(_recurrent(at_the_end(tables, lacks="nothing")))
    for rule, own in rows.groupby("beyond"):
        partial, whole = (by_seed(own[own["coupling"] == strength], "accuracy") for strength in (0.9, 1.0))
        lost = partial.sub(whole).dropna().rename_axis("seed")
        if len(lost):
            yield between(
                f"prefix sums, {_rule(rule)}: accuracy on {_lengths(own)} is lower by at most 0.05", lost, -0.05
            )


@claim("P4", "", "Tied nets without norm, recall or progressive loss do not carry prefix sums that far.")
def each_ingredient_is_needed(tables: Tables) -> Iterator[Finding]:
    rows = longest(_recurrent(at_the_end(tables, beyond="last"), 1.0))
    for lacks, own in rows[rows["lacks"] != "nothing"].groupby("lacks"):
        statement = f"prefix sums: without {lacks}, the share of right strings of {_lengths(own)} is below 0.5"
        yield between(statement, by_seed(own, "accuracy"), high=0.5)


@claim("P5", "", "Nets that carry prefix sums to the longest strings settle, and no other net does.")
def those_that_extrapolate_settle(tables: Tables) -> Iterator[Finding]:
    rows = _with_residual(tables)
    if rows.empty:
        return
    carried = rows["accuracy"] > RIGHT
    settled = rows["residual"] < SETTLED
    yield always(f"prefix sums: nets that carry them have a relative step below {SETTLED:g}", settled[carried])
    yield always(f"prefix sums: all others have a relative step above {SETTLED:g}", ~settled[~carried])


@claim("P6", "", "The relative step after many iterations tells which nets extrapolate; CI, RI and DI do not.")
def indices_do_not_tell(tables: Tables) -> Iterator[Finding]:
    rows = _with_residual(tables)
    if rows.empty:
        return
    rows = rows.merge(tables.prefix_nets[["name", *INDICES]], on="name")
    statement = "prefix sums: nets that carry them have a smaller relative step than others, with a chance above 0.9"
    yield between(statement, separation(rows.assign(residual=-rows["residual"]), "residual"), low=0.9)
    for index in INDICES:
        statement = f"prefix sums: they have a higher {index} index than others with a chance within 0.25 of 0.5"
        yield between(statement, separation(rows, index), 0.25, 0.75)


def separation(rows: pd.DataFrame, column: str) -> pd.Series:
    """Compute how well a column tells nets that carry their task from those that do not.

    Args:
        rows: Nets with their accuracies.
        column: The column; nets for which it is undefined are left out.

    Returns:
        For each seed with nets of both kinds, the chance that one that carries its task has a higher value than one
        that does not (the area under the receiver operating characteristic; equal values count half).
    """
    found = {}
    for seed, own in rows.dropna(subset=column).groupby("seed"):
        carried = own["accuracy"] > RIGHT
        yes, no = own[column][carried].to_numpy(float), own[column][~carried].to_numpy(float)
        if len(yes) and len(no):
            found[seed] = float(((yes[:, None] > no) + 0.5 * (yes[:, None] == no)).mean())
    return pd.Series(found, dtype=float).rename_axis("seed")


def _with_residual(tables: Tables) -> pd.DataFrame:
    """Accuracy on the longest strings, and the relative step on ``ALWAYS`` bits, which every net has.

    Choice: the last block is repeated, as for the Divergence Index; the step of a state that is not finite is ``LOST``.
    """
    rows = at_the_end(tables, beyond="last")
    steps = longest(rows[rows["length"] <= ALWAYS])[["name", "residual"]]
    steps["residual"] = steps["residual"].fillna(LOST).clip(upper=LOST)
    return longest(rows).drop(columns="residual").merge(steps, on="name")


def _rule(beyond: object) -> str:
    return {"last": "last block repeated", "cycle": "all blocks in a cycle"}[str(beyond)]
