"""``depth``: error and agreement against the number of executed blocks, and the depth at which examples are decided."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import check_choice, check_count
from iterconv.measuring.compare import compare
from iterconv.measuring.result import Result
from iterconv.options import Against
from iterconv.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEARLY = 2.0
"""The standard errors of a paired difference by which a depth has to be worse than the best one."""


@dataclass(frozen=True, eq=False)
class Depth(Result):
    """The result of ``iterconv.depth``. Rows of outputs are called examples: they may be tokens or pixels."""

    KIND, SMALL, COUNTS = "depth curve", "curve", ("settling_depth",)

    curve: pd.DataFrame
    """One row for each depth: ``depth`` (executed blocks of all stages), ``stage`` and ``block`` of the last one (from
    0), ``error``, ``agreement`` with the ordinary pass and ``cross_entropy`` over ``n`` examples, as in
    ``iterconv.Settling``, and ``excess``, the error above that of the best depth, with its standard error
    ``excess_se`` over paired examples."""
    examples: pd.DataFrame
    """One row for each example: ``example`` (from 0, in the order of the batches), ``right`` in the ordinary pass,
    ``right_anywhere`` (at some depth up to it), ``settling_depth`` (the first depth from which the prediction stays
    that of the ordinary pass, up to it) and ``stays`` (also at all depths beyond)."""
    options: dict[str, Any]
    """The circumstances: trained (the depth of the ordinary pass), stages (the blocks of each), extra_evaluations,
    against, examples."""

    @property
    def best(self) -> int:
        """The depth with the lowest error, the smallest one if there are several."""
        return int(self.curve["depth"].iloc[int(self.curve["error"].argmin())])

    @property
    def overthinking(self) -> int | None:
        """The depth from which on it is worse than at the best one, or None if it does not get worse for good.

        Choice: worse means by more than two standard errors of the paired difference, at this and all later depths.
        """
        worse = (self.curve["excess"] > CLEARLY * self.curve["excess_se"]) & (self.curve["depth"] > self.best)
        last = np.flatnonzero(~worse)[-1] + 1
        return int(self.curve["depth"].iloc[last]) if last < len(worse) else None

    def draw(self) -> "Figure":
        """Draw error and agreement against executed blocks, and the distribution of settling depths."""
        from iterconv.figures.settling import draw_depth  # late, as matplotlib is optional

        return draw_depth(self.curve, self.examples, self.options, self.best, self.overthinking)


def depth(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    extra_evaluations: int = 16,
    against: Against = "labels",
    task: Task | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Depth:
    """Read a model out after each of its blocks, through all stages, and after further evaluations of the last one.

    At depth d, the first d blocks of the model are executed, and the others are left out; what stands between the
    stages, and the head, are executed at every depth. The model is left exactly as it was.

    Args:
        model: A model as for ``iterconv.measure``.
        batches: Batches as for ``iterconv.measure``; the numbers of the examples follow their order.
        extra_evaluations: The evaluations of the last block of the last stage beyond the ordinary pass; 0 for none.
        against: The reference of errors, as for ``iterconv.measure``.
        task: The meaning of outputs and targets, as for ``iterconv.measure``.
        progress: A function that is called after each batch with the number of rows so far and None.

    Returns:
        The curve, the examples, and the options that led to them.

    Raises:
        InputError: If an argument is out of range, or as for ``iterconv.measure``.
    """
    check_choice("against", against, Against)
    extra_evaluations = check_count("extra_evaluations", extra_evaluations, 0)
    staged, batches = as_staged(model, batches, task)
    full = paths.full_route(staged.stages)
    places = list_depths(full, extra_evaluations)
    routes = [route for *_, route in places]
    metrics = ["error", "disagreement", "cross_entropy"]
    found = compare(staged, batches, routes, task=task, against=against, metrics=metrics, progress=progress)
    values = {name: np.stack([found.of(route, name) for route in routes]) for name in metrics}
    trained = sum(map(len, full))
    options = {"trained": trained, "stages": [len(path) for path in full], "extra_evaluations": extra_evaluations}
    options |= {"against": against, "examples": values["error"].shape[1]}
    return Depth(_make_curve(places, values), _make_examples(values, trained), options)


def list_depths(full: paths.Route, extra: int) -> list[tuple[int, int, int, paths.Route]]:
    """List all depths, from one block on.

    Args:
        full: The route of the ordinary pass.
        extra: The number of extra evaluations of the last block.

    Returns:
        The depth, the stage and the block that is executed last, and the route.
    """
    order = [(stage, block) for stage, path in enumerate(full) for block in path]
    order += [order[-1]] * extra
    found = []
    for count, (stage, block) in enumerate(order, 1):
        executed = order[:count]
        route = tuple(tuple(b for s, b in executed if s == number) for number in range(len(full)))
        found.append((count, stage, block, route))
    return found


def _make_curve(
    places: list[tuple[int, int, int, paths.Route]], values: dict[str, NDArray[np.float64]]
) -> pd.DataFrame:
    errors, entropies = values["error"], values["cross_entropy"]
    excess = errors - errors[errors.mean(1).argmin()]
    deviation = excess.std(1, ddof=1) if errors.shape[1] > 1 else np.zeros(len(errors))
    finite = np.isfinite(entropies)
    count = finite.sum(1)
    mean_entropy = np.where(finite, entropies, 0).sum(1) / np.where(count > 0, count, np.nan)
    return pd.DataFrame(
        {
            "depth": [depth for depth, *_ in places],
            "stage": [stage for _, stage, *_ in places],
            "block": [block for *_, block, _ in places],
            "error": errors.mean(1),
            "agreement": 1 - values["disagreement"].mean(1),
            "cross_entropy": mean_entropy,
            "excess": excess.mean(1),
            "excess_se": deviation / np.sqrt(errors.shape[1]),
            "n": errors.shape[1],
        }
    )


def _make_examples(values: dict[str, NDArray[np.float64]], trained: int) -> pd.DataFrame:
    errors, differs = values["error"], values["disagreement"] > 0
    # The last depth that differs, counted from 1; 0 if none does.
    last = np.where(differs[:trained], np.arange(1, trained + 1)[:, None], 0).max(0)
    table = pd.DataFrame(
        {
            "example": np.arange(errors.shape[1]),
            "right": errors[trained - 1] == 0,
            "right_anywhere": (errors[:trained] == 0).any(0),
            "settling_depth": last + 1,
            "stays": ~differs[trained:].any(0),
        }
    )
    return table.astype({"settling_depth": "Int64"})
