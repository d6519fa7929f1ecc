"""Claims of our own about prefix sums: is convergence the right bias there, and does coupling help to get it?"""

from collections.abc import Iterator

import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.compare import by_seed, slopes
from iterconv.claims.findings import Finding, always, between
from iterconv.studies.extrapolation import ALWAYS, SETTLED
from iterconv.studies.tables import Tables
from iterconv.training.prefix import INGREDIENTS

RIGHT = 0.945
"""The share of right strings above which a net counts as having carried its task to a length: 19 of 20, rounded."""
LOST = 1e6
"""The largest relative step that is told from a state that is not finite."""
_CONDITION = ["name", "lacks", "init", "coupling", "seed", "beyond", "length"]
_PARTS = {"a": "last", "b": "cycle"}
_RULES = {"last": "last block repeated", "cycle": "all blocks in a cycle"}


def at_the_end(tables: Tables, **values: object) -> pd.DataFrame:
    """Select the last read-out of each net of ``prefix_nets``, rule and length, by the values of columns."""
    rows = tables.prefix
    if rows.empty:
        return pd.DataFrame(columns=[*_CONDITION, "accuracy", "residual"])
    rows = rows[rows["name"].isin(tables.prefix_nets["name"])]
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows[rows["iterations"] == rows.groupby(_CONDITION)["iterations"].transform("max")]


def longest(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of the longest strings."""
    return rows[rows["length"] == rows["length"].max()]


def _bits(rows: pd.DataFrame) -> str:
    return f"{int(rows['length'].max())} bits" if len(rows) else "the longest strings"


@claim(
    "P1",
    "",
    "Tied nets with recall, progressive loss and norm carry prefix sums to strings many times as long.",
    {"": "Tied nets of the full recipe carry prefix sums far"},
    studies=("prefix",),
    kind="prefix_nets",
    about={"lacks": "nothing", "init": "recurrent", "coupling": 1.0},
)
def tied_nets_extrapolate(tables: Tables) -> Iterator[Finding]:
    rows = longest(at_the_end(tables, beyond="last"))
    statement = f"the share of right strings of {_bits(rows)} after the last iteration is above 0.95"
    yield between("", statement, by_seed(rows, "accuracy"), low=RIGHT)


@claim(
    "P2",
    "",
    "With the full recipe, stronger coupling lets untied nets carry prefix sums further.",
    {part: f"Coupling carries them further, {_RULES[rule]}" for part, rule in _PARTS.items()},
    studies=("prefix",),
    kind="prefix_nets",
    about={"lacks": "nothing", "init": "recurrent"},
)
def coupling_helps(tables: Tables) -> Iterator[Finding]:
    for part, rule in _PARTS.items():
        rows = at_the_end(tables, beyond=rule)
        for length, own in rows[rows["length"] > rows["length"].min()].groupby("length"):
            statement = f"the share of right strings of {length} bits rises with coupling, from 0 to 1 by"
            yield between(part, statement, slopes(own, "coupling", "accuracy", []), low=0)


@claim(
    "P3",
    "",
    "Partial coupling is enough: at 0.9, untied nets carry prefix sums as far as tied ones.",
    {part: f"A coupling of 0.9 is enough, {_RULES[rule]}" for part, rule in _PARTS.items()},
    studies=("prefix",),
    kind="prefix_nets",
    about={"lacks": "nothing", "init": "recurrent", "coupling": (0.9, 1.0)},
)
def partial_coupling_is_enough(tables: Tables) -> Iterator[Finding]:
    for part, rule in _PARTS.items():
        rows = longest(at_the_end(tables, beyond=rule))
        partial, whole = (by_seed(rows[rows["coupling"] == strength], "accuracy") for strength in (0.9, 1.0))
        lost = partial.sub(whole).dropna().rename_axis("seed")
        statement = f"the share of right strings of {_bits(rows)} is lower at 0.9 than at 1 by at most 0.05"
        yield between(part, statement, lost, low=-0.05)


@claim(
    "P4",
    "",
    "Tied nets without norm, progressive loss or recall do not carry prefix sums that far.",
    {part: f"Tied nets without {name} do not" for part, name in zip("abc", INGREDIENTS, strict=True)},
    studies=("prefix",),
    kind="prefix_nets",
    about={"lacks": INGREDIENTS, "init": "recurrent", "coupling": 1.0},
)
def each_ingredient_is_needed(tables: Tables) -> Iterator[Finding]:
    rows = longest(at_the_end(tables, beyond="last"))
    for part, name in zip("abc", INGREDIENTS, strict=True):
        statement = f"without {name}, the share of right strings of {_bits(rows)} is below 0.5"
        yield between(part, statement, by_seed(rows[rows["lacks"] == name], "accuracy"), high=0.5)


@claim(
    "P5",
    "",
    "Nets that carry prefix sums to the longest strings settle, and no other net does.",
    {"a": "Nets that carry prefix sums settle", "b": "No other net does"},
    studies=("prefix",),
    kind="prefix_nets",
)
def those_that_extrapolate_settle(tables: Tables) -> Iterator[Finding]:
    rows = _with_residual(tables)
    carried = rows["accuracy"] > RIGHT
    settled = rows["residual"] < SETTLED
    yield always("a", f"nets that carry them have a relative step below {SETTLED:g}", settled[carried])
    yield always("b", f"all others have a relative step above {SETTLED:g}", ~settled[~carried])


@claim(
    "P6",
    "",
    "The relative step after many iterations tells which nets extrapolate; CI, RI and DI do not.",
    {"a": "The relative step tells", "b": "CI does not", "c": "RI does not", "d": "DI does not"},
    studies=("prefix",),
    kind="prefix_nets",
)
def indices_do_not_tell(tables: Tables) -> Iterator[Finding]:
    indices = {"b": "convergence", "c": "recurrence", "d": "divergence"}
    rows = _with_residual(tables).merge(tables.prefix_nets[["name", *indices.values()]], on="name")
    statement = "nets that carry prefix sums have a smaller relative step than others, with a chance above 0.9"
    yield between("a", statement, separation(rows.assign(residual=-rows["residual"]), "residual"), low=0.9)
    for part, index in indices.items():
        statement = f"they have a higher {index} index than others with a chance within 0.25 of 0.5"
        yield between(part, statement, separation(rows, index), 0.25, 0.75)


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
