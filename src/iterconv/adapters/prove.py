"""Whether the beginnings of paths may be shared: compared, bit by bit, with whole passes of the model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iterconv.adapters.recording import Recording
from iterconv.errors import line_of
from iterconv.paths.evaluate import Outcome, evaluate_bound, full_route
from iterconv.paths.families import Route


def probing_routes(stages: Sequence[Any], number: int) -> list[Route]:
    """Perturb one stage in five ways.

    Args:
        stages: All stages.
        number: The number of the perturbed one.

    Returns:
        Routes without its first block, without its last one and without any; with the first one repeated; with the last
        two exchanged.
    """
    full = full_route(stages)
    path = full[number]
    others = (path[1:], path[:-1], (), (0, *path), (*path[:-2], path[-1], path[-2]))
    return [(*full[:number], other, *full[number + 1 :]) for other in others]


def joint_routes(stages: Sequence[Any], numbers: Sequence[int]) -> list[Route]:
    """Perturb several stages at once, so that all that depends on any of their blocks changes.

    Args:
        stages: All stages.
        numbers: The numbers of the perturbed ones.

    Returns:
        One route without the first block of each of them, and one without the last.
    """
    full = full_route(stages)
    cut = (slice(1, None), slice(None, -1))
    return [tuple(path[part] if number in numbers else path for number, path in enumerate(full)) for part in cut]


def find_difference(sharing: Recording, expected: dict[Route, Outcome]) -> str:
    """Compare the shared way with whole passes.

    Args:
        sharing: The model bound to a batch, with all stages shared.
        expected: What whole passes of the model have led to.

    Returns:
        Why sharing beginnings does not give the same; empty if it does, bit by bit.
    """
    try:
        for route, outcome in evaluate_bound(sharing, list(expected)):
            whole = expected[route]
            if not _same(outcome.output, whole.output):
                return "more than the one tensor that is handed on depends on its blocks"
            if not all(map(_same, outcome.stage_outputs, whole.stage_outputs)):
                return "other stages depend on more than the one tensor that it hands on"
    except Exception as problem:  # noqa: BLE001 - whatever a model raises when it is run in pieces
        return f"its blocks can't be run by themselves ({line_of(problem).split(';')[0]})"
    return ""


def recheck_sharing(sharing: Recording, numbers: Sequence[int]) -> dict[int, str]:
    """Look whether what was proven on one batch holds on another one, too.

    One or two whole passes are compared, in which all stages are perturbed at once; only if they differ is each stage
    looked at by itself.

    Args:
        sharing: The model bound to the other batch.
        numbers: The stages whose beginnings are shared.

    Returns:
        By number, why the beginnings of some stages can't be shared on this batch.
    """
    if not numbers:
        return {}
    routes = joint_routes(sharing.stages, numbers)[:1]
    if not find_difference(sharing, {route: sharing.whole(route) for route in routes}):
        return {}
    reasons = {}
    for number in numbers:
        reason = find_difference(
            sharing, {route: sharing.whole(route) for route in probing_routes(sharing.stages, number)}
        )
        if reason:
            reasons[number] = reason
    return reasons or dict.fromkeys(numbers, "it depends on other stages when several are perturbed at once")


def _same(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
