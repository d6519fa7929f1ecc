"""What a report says of prefix sums: a caption, and a table of accuracy by length and condition."""

from collections.abc import Iterator
from typing import get_args

import pandas as pd
from matplotlib.figure import Figure

from iterconv.claims.about_prefix import at_the_end
from iterconv.figures.prefix import draw_prefix
from iterconv.figures.style import condition_label
from iterconv.options import Beyond
from iterconv.studies.extrapolation import ALWAYS
from iterconv.studies.tables import Tables

RULES = {"last": "repeat their last block", "cycle": "begin again with their first block"}
"""What nets do after their last block, by the rule's name."""


def draw_rules(tables: Tables) -> Iterator[tuple[str, str, Figure]]:
    """Draw a figure for each rule; yields the rule, a caption and the figure."""
    for beyond in get_args(Beyond):
        rows = tables.prefix[tables.prefix["beyond"] == beyond]
        followed, stepped = (
            int(lengths.max()) for lengths in (rows["length"], rows["length"][rows["length"] <= ALWAYS])
        )
        caption = (
            f"Prefix sums: nets that {RULES[beyond]} after as many iterations as they have blocks. Above: the share of "
            "strings with every bit right after the last iteration, against their length; in the middle: the same for "
            f"strings of {followed} bits, against the iterations; below: the mean relative step of the state on "
            f"strings of {stepped} bits (lines end where it is not finite). Thin lines are nets, thick ones means over "
            "seeds."
        )
        yield beyond, caption, draw_prefix(rows, followed, stepped)


def summarise_prefix(tables: Tables) -> pd.DataFrame:
    """Make a table of text: accuracies after the last iteration, their mean and range over seeds.

    Args:
        tables: Tables with nets for prefix sums.

    Returns:
        One row a kind of net, rule and condition, with one column a length.
    """
    rows = []
    ends = at_the_end(tables)
    for (lacks, beyond, coupling, init), own in ends.groupby(["lacks", "beyond", "coupling", "init"]):
        label = {"without": lacks, "beyond the last block": beyond, "coupling": condition_label(init, coupling)}
        of_length = {f"{length} bits": _range(each["accuracy"]) for length, each in own.groupby("length")}
        rows.append({**label, "n": own["name"].nunique(), **of_length})
    return pd.DataFrame(rows)


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{values.mean():.0%}" + (f" ({low:.0%} to {high:.0%})" if high > low else "")
