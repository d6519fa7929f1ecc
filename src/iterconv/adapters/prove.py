"""The proof that the beginnings of paths may be shared: a comparison, bit by bit, with whole passes of the model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iterconv.adapters.leaks import PAST_THE_END
from iterconv.adapters.recording import Recording
from iterconv.errors import line_of
from iterconv.paths.evaluate import Outcome, evaluate_bound, full_route
from iterconv.paths.families import Route


def probing_routes(stages: Sequence[Any], number: int) -> list[Route]:
    """Make routes that perturb one stage in five ways.

    Args:
        stages: All stages.
        number: The number of the perturbed stage.

    Returns:
        The routes: without the first block, without the last one, without any; with the first block repeated, and with
        the last two exchanged.
    """
    full = full_route(stages)
    path = full[number]
    # Together they leave out, repeat and reorder blocks at both ends of the stage, which is where stages touch the
    # rest.
    others = (path[1:], path[:-1], (), (0, *path), (*path[:-2], path[-1], path[-2]))
    return [(*full[:number], other, *full[number + 1 :]) for other in others]


def joint_routes(stages: Sequence[Any], numbers: Sequence[int]) -> list[Route]:
    """Make routes that perturb several stages at once, so that every value that depends on their blocks changes.

    Args:
        stages: All stages.
        numbers: The numbers of the perturbed stages.

    Returns:
        One route without the first block of each perturbed stage, and one without the last block of each.
    """
    full = full_route(stages)
    cut = (slice(1, None), slice(None, -1))
    return [tuple(path[part] if number in numbers else path for number, path in enumerate(full)) for part in cut]


def find_difference(sharing: Recording, expected: dict[Route, Outcome]) -> str:
    """Compare the shared way of running routes with whole passes.

    Args:
        sharing: The model bound to a batch, with all stages shared.
        expected: The outcomes of whole passes of the model.

    Returns:
        The reason why sharing beginnings does not give the same bits; empty if it does.
    """
    try:
        for route, outcome in evaluate_bound(sharing, list(expected)):
            whole = expected[route]
            if not _same(outcome.output, whole.output):
                return PAST_THE_END
            if not all(map(_same, outcome.stage_outputs, whole.stage_outputs)):
                return "other stages depend on more than the one tensor that it hands on"
    except Exception as problem:  # noqa: BLE001 - whatever a model raises when it is run in pieces
        return f"its blocks can't be run by themselves ({line_of(problem).split(';')[0]})"
    return ""


def recheck_sharing(sharing: Recording, numbers: Sequence[int]) -> dict[int, str]:
    """Check that the proof on one batch holds on another one, too.

    One whole pass is compared, in which all stages are perturbed at once. Only if it differs is each stage checked by
    itself.

    Args:
        sharing: The model bound to the other batch.
        numbers: The numbers of the stages whose beginnings are shared.

    Returns:
        The reasons why the beginnings of some stages can't be shared on this batch, by the number of the stage.
    """
    if not numbers:
        return {}
    without_first, _ = joint_routes(sharing.stages, numbers)
    if not find_difference(sharing, {without_first: sharing.whole(without_first)}):
        return {}
    reasons = {}
    for number in numbers:
        expected = {route: sharing.whole(route) for route in probing_routes(sharing.stages, number)}
        if reason := find_difference(sharing, expected):
            reasons[number] = reason
    return reasons or dict.fromkeys(numbers, "it depends on other stages when several are perturbed at once")


def _same(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return False
    # NaN differs from itself, but two passes that both make it agree.
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
