"""The search for routes: a beam search over numbers of blocks, and the moves that lead from one number to another."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterconv.errors import InputError, check_number, check_range
from iterconv.options import Mode
from iterconv.paths import Path, Route

Move = Callable[[Path, int], Iterable[Path]]
"""A function from a path and a number of blocks to the paths that have so many blocks fewer, or more."""

ErrorsOf = Callable[[list[Route]], NDArray[np.float64]]
"""A function from routes to their errors."""


def drop(path: Path, length: int) -> Iterable[Path]:
    """List the paths without one span of so many blocks."""
    return (path[:start] + path[start + length :] for start in range(len(path) - length + 1))


def repeat(path: Path, length: int) -> Iterable[Path]:
    """List the paths in which one span of so many blocks is executed twice in a row."""
    ends = range(length, len(path) + 1)
    return (path[:end] + path[end - length : end] + path[end:] for end in ends)


def share(path: Path, length: int) -> Iterable[Path]:
    """List the paths in which a neighbour replaces one block, wherever it is executed."""
    return (other for place in range(len(path)) for other in _borrow(path, place)) if length == 1 else ()


MOVES: Mapping[Mode, Move] = {"drop": drop, "share": share, "repeat": repeat}
"""The move of each mode."""


def _borrow(path: Path, place: int) -> list[Path]:
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


def last_number(mode: Mode, budget: Any, total: int) -> int:
    """Return the number of blocks at which a search ends.

    Args:
        mode: The mode.
        budget: A number of blocks, or a share of all blocks; by default a quarter of them, and five quarters if blocks
            are repeated.
        total: The number of all blocks.

    Returns:
        The number of blocks: executed ones, or different ones if weights are shared.

    Raises:
        InputError: If the budget is neither a number nor a share that the mode can reach.
    """
    usual, least, most, example = (1.25, 1, 4, "1.5") if mode == "repeat" else (0.25, 0, 1, "0.5")
    budget = check_number("budget", usual if budget is None else budget)
    if isinstance(budget, int):
        interval, remedy = f"[{least * total}, {most * total}]", f"use a number of blocks, or a share such as {example}"
        return int(check_range("budget", budget, interval, remedy))
    remedy = f"use a share such as {example}, or a number of blocks"
    return round(check_range("budget", budget, f"[{least}, {most}]", remedy) * total)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A beam search from the ordinary pass towards fewer, more or fewer different blocks."""

    mode: Mode
    beam: int
    """The number of routes of each number of blocks from which the search goes on."""
    spans: bool
    """True if one move may drop or repeat several blocks in a row, False if one block only."""

    def run(
        self, full: Route, last: int, errors_of: ErrorsOf, progress: Callable[[int, int], None]
    ) -> tuple[list[tuple[Route, float]], int]:
        """Search from the ordinary pass on.

        Args:
            full: The ordinary pass.
            last: The number of blocks at which the search ends.
            errors_of: Evaluates routes.
            progress: A function that is called after each step with the steps done and all steps.

        Returns:
            The best route of each number of blocks with its error, and the number of routes that were tried.

        Raises:
            InputError: If spans are to share weights.
        """
        if self.spans and self.mode == "share":
            raise InputError("spans=True does not go with mode='share', which replaces one block at a time")
        chosen = [(full, float(errors_of([full])[0]))]
        kept, tried = [[full]], {full}  # the routes of the beam, by the number of steps that lead to them
        steps = abs(sum(map(len, full)) - last)
        for step in range(1, steps + 1):
            # Several ways lead to the same route.
            candidates = [route for route in dict.fromkeys(self._from(kept)) if route not in tried]
            # Sharing ends before the budget if all blocks of each stage are one.
            if not candidates:
                break
            tried |= set(candidates)
            errors = errors_of(candidates)
            order = np.argsort(errors, kind="stable")  # of equally good routes, the first one, on every machine
            kept.append([candidates[place] for place in order[: self.beam]])
            chosen.append((kept[-1][0], float(errors[order[0]])))
            progress(step, steps)
        return chosen, len(tried)

    def _from(self, kept: Sequence[Sequence[Route]]) -> Iterable[Route]:
        """Yield the routes of the next number of blocks; the shortest moves come first."""
        for length, routes in enumerate(reversed(kept if self.spans else kept[-1:]), 1):
            for route in routes:
                for stage, path in enumerate(route):
                    for other in MOVES[self.mode](path, length):
                        yield (*route[:stage], other, *route[stage + 1 :])
