"""``plan``: a search for the blocks that can be dropped or replaced by a neighbour, with the cost in errors."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from iterconv import paths
from iterconv.adapters.rebuild import rebuild
from iterconv.adapters.staged import as_staged
from iterconv.errors import (
    InputError,
    OptionError,
    check_choice,
    check_count,
    check_number,
    check_range,
    line_of,
    rename_options,
    require,
)
from iterconv.files import read_json, to_json, write_atomically, writing
from iterconv.measuring.bootstrap import check_bootstrap, interval, resampled_means
from iterconv.measuring.compare import compare
from iterconv.options import Against, Mode
from iterconv.paths.contract import require_staged
from iterconv.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Plan:
    """The best routes that were found, for every number of blocks."""

    model: Any
    """The staged model, or the adapter of a foreign one."""
    frontier: pd.DataFrame
    """One row for each number of blocks, from all of them down: ``blocks`` (executed), ``distinct`` (different ones),
    ``route``, ``search_error`` (on the half that chose the route), ``error`` with ``low`` and ``high`` (on the other
    half), and ``n``, the number of rows."""
    options: dict[str, Any]

    def route(self, blocks: int) -> paths.Route:
        """Return the route with a number of blocks: executed blocks, or different ones if the plan shares weights.

        Args:
            blocks: The number, which has to be on the frontier.

        Returns:
            A path for every stage.

        Raises:
            InputError: If the number is not on the frontier.
        """
        column = "blocks" if self.options["mode"] == "drop" else "distinct"
        blocks = check_count("blocks", blocks, 0)
        rows = self.frontier[self.frontier[column] == blocks]
        if rows.empty:
            low, high = self.frontier[column].min(), self.frontier[column].max()
            raise OptionError("blocks", blocks, f"is not on the frontier; use {low} to {high}")
        return tuple(rows["route"].iloc[0])

    def apply(self, blocks: int) -> nn.Module:
        """Make a smaller, ordinary module that executes one route.

        Args:
            blocks: The number of blocks, which has to be on the frontier.

        Returns:
            A copy of the model whose containers hold the route's blocks only, in evaluation mode if the model is. A
            repeated block is one module that is there several times, except in language models, whose blocks are
            copied, since their caches need places of their own.

        Raises:
            InputError: If the number is not on the frontier, if the blocks are not children of one container, or if the
                copy does not reproduce the route.
        """
        return rebuild(self.model, self.route(blocks))

    def coupling_groups(self, blocks: int) -> list[list[nn.Module]]:
        """Suggest groups for ``iterconv.couple``: the blocks that a route replaces, with the blocks that replace them.

        Args:
            blocks: The number of blocks, on the frontier of a plan that shares weights.

        Returns:
            Lists of two or more modules of the original model.

        Raises:
            InputError: If the number is not on the frontier.
        """
        groups = []
        for stage, path in zip(self.model.stages, self.route(blocks), strict=True):
            by_block: dict[int, list[nn.Module]] = {}
            for place, block in enumerate(path):
                by_block.setdefault(block, []).append(stage.blocks[place])
            groups += [group for group in by_block.values() if len(group) > 1 and len(path) == len(stage.blocks)]
        return groups

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the frontier and the options, but not the model, to a .json file.

        Args:
            path: The file, which appears whole or not at all.

        Raises:
            InputError: If the name does not end in .json, or the file can't be written.
        """
        path = _check_json_file(path)
        rows = self.frontier.to_dict("list")
        contents = {"format": FORMAT, "options": self.options, "frontier": rows}
        with writing(path):
            write_atomically(path, to_json(contents))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module) -> "Plan":
        """Read a plan that ``save`` wrote.

        Args:
            path: The file.
            model: The model of the plan: staged, or adapted with the same stages.

        Returns:
            The plan.

        Raises:
            InputError: If the file is missing or damaged, or if its model has other stages.
        """
        path = _check_json_file(path)
        contents = read_json(path, f"there is no plan {path}; save one with plan.save()", "plan again")
        try:
            if contents["format"] != FORMAT:
                raise ValueError("another format")
            frontier = pd.DataFrame(contents["frontier"])
            frontier["route"] = [tuple(tuple(path) for path in route) for route in frontier["route"]]
            intact, options = frontier["route"].iloc[0], dict(contents["options"])
            frontier[["search_error", "error", "low", "high"]].astype(float)  # raises if they are not numbers
        except (KeyError, ValueError, TypeError, IndexError) as problem:
            raise InputError(f"{path} is not a plan ({line_of(problem)}); plan again") from None
        require_staged(model)
        stages: Any = model.stages
        if intact != paths.full_route(stages):
            sizes = [len(stage.blocks) for stage in stages]
            raise InputError(f"{path} is a plan of {[len(path) for path in intact]} blocks a stage, not of {sizes}")
        return cls(model, frontier.astype({"low": float, "high": float}), options)

    def plot(self) -> "Figure":
        """Draw the frontier."""
        require("matplotlib", "drawing")
        from iterconv.figures.one_model import draw_plan  # late, as matplotlib is optional

        return draw_plan(self.frontier, self.options["mode"])


FORMAT = "iterconv plan 1"


def _check_json_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"{path} does not name a plan; let it end in .json")
    return path


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
