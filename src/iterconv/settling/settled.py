"""``Settling``: what ``settle`` has found about a model whose blocks were applied again and again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from iterconv.measuring.result import Result
from iterconv.settling.trajectory import VERDICTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Settling(Result):
    """The result of ``iterconv.settle``. Rows of outputs are called examples: they may be tokens or pixels."""

    KIND, SMALL, COUNTS = "settling", "steps", ("settling_step",)

    steps: pd.DataFrame
    """One row for each read-out, in columns. ``step``: the applications beyond the ordinary pass. ``error``, in
    [0, 1]; an output that is not finite counts as a guess, as in ``iterconv.measure``. ``agreement``, in [0, 1]: the
    share of predictions that are those of the ordinary pass, with guesses in the same way. ``cross_entropy`` in nats:
    the mean over finite outputs. ``residual``: the length of the step that led here relative to the norm of the state
    before it, ||z' - z|| / ||z||, as the median over the examples whose state is finite, with the quartiles
    ``residual_low`` and ``residual_high``.
    ``angle`` in degrees: that between this step and the one before, median. ``growth``: the spectral radius of the
    Jacobian of one application at this state, median; below 1, a small difference dies out. ``finite``: the share of
    examples whose state is finite. ``n``: the number of examples."""
    examples: pd.DataFrame
    """One row for each example. ``example``: its number from 0 in the order of the batches. ``verdict``: ``settles``,
    ``cycles``, ``drifts``, ``diverges`` or ``idle``; ``undefined`` where representations have no rows that belong to
    rows of the output. ``right``: at the last step; ``right_before``: in the ordinary pass; ``stays_right``: at every
    read-out. ``agrees``: the last prediction is that of the ordinary pass. ``converges``: the steps shrink so fast that
    their sum stays finite. ``settling_step``: the first step from which the state is at rest, missing where it is not
    at the end. ``period``: the applications after which a cycle comes back, 0 if it does not within 32. ``exponent``:
    the finite-time Lyapunov exponent in nats an application."""
    options: dict[str, Any]
    """The circumstances: stage, span (start, end), blocks, steps, damping, growth, against, tolerance, examples."""

    @property
    def verdicts(self) -> pd.DataFrame:
        """The number of examples by verdict (rows) and by whether they are right at the last step (columns)."""
        table = pd.crosstab(self.examples["verdict"], self.examples["right"].map({True: "right", False: "wrong"}))
        names = [*VERDICTS, *(["undefined"] if "undefined" in table.index else [])]
        return table.reindex(index=names, columns=["right", "wrong"], fill_value=0)

    def shares(self) -> dict[str, float]:
        """Return the shares of examples that settle, that converge, and that stay right, each in [0, 1]."""
        settles = self.examples["verdict"] == "settles"
        shares = {"settles": settles, "converges": self.examples["converges"], "stays right": self.examples.stays_right}
        return {name: float(column.mean()) for name, column in shares.items()}

    def draw(self) -> "Figure":
        """Draw error and agreement, relative residuals, growth rates, and the verdicts crossed with right and wrong."""
        from iterconv.figures.settling import draw_settling  # late, as matplotlib is optional

        return draw_settling(self.steps, self.verdicts, self.options)
