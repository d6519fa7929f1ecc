"""``plan``: a search for the blocks that can be dropped, repeated or replaced by a neighbour."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import InputError, check_choice, check_count, rename_options
from iterconv.measuring.bootstrap import check_bootstrap, interval, resampled_means
from iterconv.measuring.compare import compare
from iterconv.options import Against, Mode
from iterconv.planning.frontier import Plan
from iterconv.planning.influence import BASELINES, influence
from iterconv.planning.search import Search, last_number
from iterconv.tasks import Task


@rename_options({"blocks": "drop", "weights": "share"}, reference="against", saves="mode", replicates="resamples")
def plan(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    budget: Any = None,
    mode: Mode = "drop",
    beam: int = 2,
    spans: bool = False,
    against: Against = "labels",
    task: Task | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Search for the routes that lose least when blocks are dropped, repeated or replaced by a neighbour.

    The search starts from the ordinary pass. At each step, every route of the beam loses each of its blocks in turn (or
    repeats it, or has it replaced by a neighbour), and the best ``beam`` of these routes are kept, up to the budget.
    Routes are chosen on the even-numbered batches and reported on the odd-numbered ones, since an error on the batches
    that chose a route would be too low.

    Where blocks are dropped, the plan also tells what two conventional numbers would have dropped. They are computed on
    the same half and need no errors: Block Influence and angular distance, see ``iterconv.influence``.

    Args:
        model: A model as for ``iterconv.measure``; it is left as it was.
        batches: Two or more batches as for ``iterconv.measure``.
        budget: The least number of blocks to be left, or their share of all blocks; a quarter of them by default. If
            blocks are repeated, the largest number of blocks to be executed; five quarters of all by default.
        mode: The mode: ``"drop"`` drops blocks, ``"share"`` keeps their number and lets them share weights,
            ``"repeat"`` executes blocks twice or more often.
        beam: The number of routes that are kept at each step.
        spans: True to drop or repeat several blocks in a row at once too; a good span may have no good part, which
            a search block by block does not find.
        against: The same as for ``iterconv.measure``.
        task: The same as for ``iterconv.measure``.
        resamples: The number of bootstrap resamples for the intervals.
        confidence: The confidence of the intervals.
        seed: The seed of the bootstrap.
        progress: A function that is called after each step with the steps done and all steps.

    Returns:
        The plan.

    Raises:
        InputError: If an option is out of range, if there are fewer than two batches, or as for ``iterconv.measure``.
    """
    check_choice("mode", mode, Mode)
    check_choice("against", against, Against)
    beam = check_count("beam", beam, why="keeps no route")
    resamples, confidence, seed = check_bootstrap(resamples, confidence, seed)
    staged, batches = as_staged(model, batches, task)
    kept = list(batches)
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} batch(es) can't be halved, to search on one half and report on the other; use a smaller "
            "batch size"
        )
    # Every other batch: the halves of data that come in an order, such as by class, would be of different kinds.
    search, held_out = kept[0::2], kept[1::2]
    full = paths.full_route(staged.stages)
    last = last_number(mode, budget, sum(map(len, full)))

    def errors_of(routes: Sequence[paths.Route], batches: list[Any]) -> tuple[NDArray[np.float64], Any]:
        found = compare(staged, batches, routes, task=task, against=against, metrics=["error"])
        return np.stack([found.of(route, "error") for route in routes]), found.units

    chosen, tried = Search(mode=mode, beam=beam, spans=spans).run(
        full, last, lambda routes: errors_of(routes, search)[0].mean(1), progress or (lambda done, of: None)
    )
    others = _others(staged, search, full, last) if mode == "drop" else []
    report, units = errors_of([route for route, _ in chosen] + [route for _, route in others], held_out)
    means = resampled_means(report, resamples, seed, units)
    rows = [_describe(route, own, confidence, report.shape[1]) for (route, _), own in zip(chosen, means, strict=False)]
    frontier = pd.DataFrame(rows)
    frontier.insert(3, "search_error", [error for _, error in chosen])
    baselines = pd.DataFrame(
        {"method": method, **_describe(route, own, confidence, report.shape[1])}
        for (method, route), own in zip(others, means[len(chosen) :], strict=True)
    )
    options = {"mode": mode, "beam": beam, "spans": spans, "against": against, "seed": seed, "routes_tried": tried}
    return Plan(staged, frontier, options, baselines)


def _others(model: Any, batches: list[Any], full: paths.Route, last: int) -> list[tuple[str, paths.Route]]:
    """List the routes that the conventional numbers choose on the batches of the search, down to the budget."""
    table = influence(model, batches)
    routes = [(method, route) for method, choose in BASELINES.items() for route in choose(table, full)]
    return [(method, route) for method, route in routes if sum(map(len, route)) >= last]


def _describe(route: paths.Route, means: NDArray[np.float64], confidence: float, count: int) -> dict[str, Any]:
    """Make a row of a frontier from the mean errors of a route on all resamples."""
    low, high = interval(means, confidence)
    return {
        "blocks": sum(map(len, route)),
        "distinct": sum(len(set(path)) for path in route),
        "route": route,
        "error": float(means[0]),
        "low": low,
        "high": high,
        "n": count,
    }
