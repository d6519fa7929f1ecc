"""``sweep_damping``: does a block settle if only a part of each of its steps is taken?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from iterconv.errors import OptionError, check_range
from iterconv.measuring.result import Result
from iterconv.settling.settled import Settling
from iterconv.settling.settling import settle
from iterconv.settling.trajectory import VERDICTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class DampingSweep(Result):
    """The result of ``iterconv.sweep_damping``: what ``iterconv.settle`` finds for each part of a step."""

    KIND, SMALL, COUNTS = "damping sweep", "steps", ("settling_step",)

    steps: pd.DataFrame
    """The steps of a ``Settling`` for each ``damping``, which is the first column."""
    examples: pd.DataFrame
    """The examples of a ``Settling`` for each ``damping``, which is the first column."""
    options: dict[str, Any]
    """The options of a ``Settling``, with a list of all ``damping``."""

    @property
    def table(self) -> pd.DataFrame:
        """What the runs came to, with one row for each ``damping``.

        The columns are ``error``, ``agreement``, ``residual`` and ``growth`` at the last step, the median ``exponent``,
        and the shares of examples as of ``Settling.shares``.
        """
        rows = []
        for damping, steps in self.steps.groupby("damping", sort=False):
            last = steps.iloc[-1][["error", "agreement", "residual", "growth"]].astype(float).to_dict()
            own = self._of(float(damping))
            exponent = float(own.examples["exponent"].median())
            rows.append({"damping": damping, **last, "exponent": exponent, **own.shares()})
        return pd.DataFrame(rows)

    @property
    def verdicts(self) -> pd.DataFrame:
        """The share of examples by ``damping`` (rows) and by verdict (columns)."""
        table = pd.crosstab(self.examples["damping"], self.examples["verdict"], normalize="index")
        names = [*VERDICTS, *(["undefined"] if "undefined" in table.columns else [])]
        return table.reindex(index=self.options["damping"], columns=names, fill_value=0.0)

    def _of(self, damping: float) -> Settling:
        steps, examples = (table[table["damping"] == damping] for table in (self.steps, self.examples))
        return Settling(steps, examples, self.options)

    def draw(self) -> "Figure":
        """Draw errors and relative residuals against steps, one line for each damping, and the verdicts."""
        from iterconv.figures.damping import draw_sweep  # late, as matplotlib is optional

        return draw_sweep(self.steps, self.verdicts, self.options)


def sweep_damping(
    model: nn.Module, batches: Iterable[Any], damping: Sequence[float] = (0.25, 0.5, 1.0), **options: Any
) -> DampingSweep:
    """Apply a block again and again with parts of its step, z + a (B(z) - z), and tell for which parts a it settles.

    Damping leaves fixed points where they are, and makes the eigenvalues l of the block's Jacobian 1 + a (l - 1). So a
    state that overshoots (l below -1) settles once a is small enough, and one that runs away (l above 1) never does.

    Args:
        model: A model as for ``iterconv.settle``; it is left as it was.
        batches: Batches as for ``iterconv.settle``.
        damping: The parts of a step, each above 0; 1 is the block as it is.
        options: Further options of ``iterconv.settle``.

    Returns:
        The steps and the examples of all runs.

    Raises:
        InputError: If there is no part or one of them is out of range or there twice, or as for ``iterconv.settle``.
    """
    parts = check_dampings(damping)
    kept = list(batches) if isinstance(batches, Iterator) else batches
    found = {part: settle(model, kept, damping=part, **options) for part in parts}
    steps, examples = (
        pd.concat([getattr(one, name).assign(damping=part) for part, one in found.items()], ignore_index=True)
        for name in ("steps", "examples")
    )
    for table in (steps, examples):
        table.insert(0, "damping", table.pop("damping"))
    return DampingSweep(steps, examples, {**found[parts[0]].options, "damping": parts})


def check_dampings(damping: Any) -> list[float]:
    """Return the parts of a step; raises ``InputError`` for others than there can be."""
    if isinstance(damping, str) or not isinstance(damping, Iterable) or not (listed := list(damping)):
        raise OptionError("damping", damping, "is no list of parts; use some such as (0.25, 0.5, 1)")
    parts = [float(check_range("damping", part, "(0, inf)", "1 is the block as it is")) for part in listed]
    if len(set(parts)) < len(parts):
        raise OptionError("damping", damping, "names a part twice; name each once")
    return parts
