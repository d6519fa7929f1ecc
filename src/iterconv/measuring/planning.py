"""``plan``: a search for the blocks that can be dropped or replaced by a neighbour, with the cost in errors."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import (
    InputError,
    check_choice,
    check_count,
    check_number,
    check_range,
    rename_options,
)
from iterconv.measuring.bootstrap import check_bootstrap, interval, resampled_means
from iterconv.measuring.compare import compare
from iterconv.measuring.frontier import Plan
from iterconv.options import Against, Mode
from iterconv.tasks import Task

if TYPE_CHECKING:
    pass


@rename_options({"blocks": "drop", "weights": "share"}, reference="against", saves="mode", replicates="resamples")
def plan(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    budget: Any = None,
    mode: Mode = "drop",
    beam: int = 2,
    against: Against = "labels",
    task: Task | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Search for the routes that lose least when blocks are dropped, or when they borrow a neighbour's weights.

    The search starts from the ordinary pass. At each step, every route of the beam loses each of its blocks in turn (or
    has it replaced by a neighbour), and the best ``beam`` of these routes are kept, down to the budget. Routes are
    chosen on the even-numbered batches and reported on the odd-numbered ones, since an error on the batches that chose
    a route would be too low.

    Args:
        model: A model as for ``iterconv.measure``; it is left as it was.
        batches: Two or more batches as for ``iterconv.measure``.
        budget: The least number of blocks to be left, or their share of all blocks; a quarter of them by default.
        mode: The mode: ``"drop"`` drops blocks, ``"share"`` keeps their number and lets them share weights.
        beam: The number of routes that are kept at each step.
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
    least = least_blocks(budget, sum(map(len, full)))

    def errors_of(routes: Sequence[paths.Route], batches: list[Any]) -> tuple[NDArray[np.float64], Any]:
        found = compare(staged, batches, routes, task=task, against=against, metrics=["error"])
        return np.stack([found.of(route, "error") for route in routes]), found.units

    chosen, tried = _search(
        full,
        least,
        mode,
        beam,
        lambda routes: errors_of(routes, search)[0].mean(1),
        progress or (lambda done, of: None),
    )
    report, units = errors_of([route for route, _ in chosen], held_out)
    frontier = _make_frontier(chosen, resampled_means(report, resamples, seed, units), confidence, report.shape[1])
    options = {"mode": mode, "beam": beam, "against": against, "seed": seed, "routes_tried": tried}
    return Plan(staged, frontier, options)


def _search(
    full: paths.Route,
    least: int,
    mode: str,
    beam: int,
    errors_of: Callable[[list[paths.Route]], NDArray[np.float64]],
    progress: Callable[[int, int], None] | None,
) -> tuple[list[tuple[paths.Route, float]], int]:
    """Search from the ordinary pass downwards; return the best route of each step with its error, and all tried."""
    chosen = [(full, float(errors_of([full])[0]))]
    front, tried = [full], {full}
    steps = sum(map(len, full)) - least
    for step in range(steps):
        # Two routes of the beam can lose different blocks and become the same route.
        candidates = [route for route in dict.fromkeys(_shorten(front, mode)) if route not in tried]
        # Sharing ends before the budget if all blocks of each stage are one.
        if not candidates:
            break
        tried |= set(candidates)
        errors = errors_of(candidates)
        order = np.argsort(errors, kind="stable")  # of equally good routes, the first one, on every machine
        front = [candidates[place] for place in order[:beam]]
        chosen.append((front[0], float(errors[order[0]])))
        if progress:
            progress(step + 1, steps)
    return chosen, len(tried)


def _make_frontier(
    chosen: list[tuple[paths.Route, float]], means: NDArray[np.float64], confidence: float, count: int
) -> pd.DataFrame:
    rows = []
    for (route, search_error), row in zip(chosen, means, strict=True):
        low, high = interval(row, confidence)
        rows.append(
            {
                "blocks": sum(map(len, route)),
                "distinct": sum(len(set(path)) for path in route),
                "route": route,
                "search_error": search_error,
                "error": float(row[0]),
                "low": low,
                "high": high,
                "n": count,
            }
        )
    return pd.DataFrame(rows)


def least_blocks(budget: Any, total: int) -> int:
    """Return the least number of blocks that a budget leaves; raises ``InputError`` for what is not a budget."""
    budget = check_number("budget", 0.25 if budget is None else budget)
    if isinstance(budget, int):
        return int(check_range("budget", budget, f"[0, {total}]", "use a number of blocks, or a share such as 0.5"))
    return round(check_range("budget", budget, "[0, 1]", "use a share such as 0.5, or a number of blocks") * total)


def _shorten(front: Sequence[paths.Route], mode: str) -> Iterable[paths.Route]:
    for route in front:
        for stage, path in enumerate(route):
            for place in range(len(path)):
                for other in _drop(path, place) if mode == "drop" else _borrow(path, place):
                    yield (*route[:stage], other, *route[stage + 1 :])


def _drop(path: paths.Path, place: int) -> list[paths.Path]:
    return [path[:place] + path[place + 1 :]]


def _borrow(path: paths.Path, place: int) -> list[paths.Path]:
    """List the paths in which a neighbour replaces the block at a place, and at all other places that use it."""
    found = []
    for neighbour in (place - 1, place + 1):
        if 0 <= neighbour < len(path) and path[neighbour] != path[place] and path.count(path[place]) == 1:
            found.append((*path[:place], path[neighbour], *path[place + 1 :]))
    # The weights of a block that several places use are only saved once all of these places give it up.
    if path.count(path[place]) > 1 and path.index(path[place]) == place:
        others = {path[n] for n in (place - 1, place + path.count(path[place])) if 0 <= n < len(path)}
        found += [tuple(other if block == path[place] else block for block in path) for other in others - {path[place]}]
    return found
