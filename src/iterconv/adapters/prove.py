"""The proof that the beginnings of paths may be shared: a comparison, bit by bit, with whole passes of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.adapters.drive import Driven
from iterconv.adapters.find import FoundStage
from iterconv.adapters.leaks import PAST_THE_END
from iterconv.adapters.recording import Recording
from iterconv.errors import line_of
from iterconv.paths.evaluate import Outcome, evaluate_bound, full_route
from iterconv.paths.families import Route


@dataclass(eq=False)
class AdaptedStage:
    """A stage of a foreign model, with the results of the proofs about it."""

    found: FoundStage
    shape: tuple[int, ...]
    """The shape of the representation that enters the stage, in the batch on which the model was adapted."""
    driven: Driven
    whole: str = ""
    """The reason why each path takes a pass of the whole model; empty if sharing is proven to give the same bits."""

    @property
    def name(self) -> str:
        """The place of the blocks in the model."""
        return self.found.name

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks in the order of the ordinary pass."""
        return self.found.blocks

    @property
    def shared(self) -> bool:
        """True if the beginnings of paths may be computed once."""
        return not self.whole

    def __str__(self) -> str:
        way = "shared" if self.shared else f"whole model, as {self.whole}"
        return f"{self.found}, {self.shape}, identity share {self.found.identity_share:.2f}, {way}"


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


def trunk_holds(sharing: Recording, routes: Sequence[Route]) -> bool:
    """Check that what comes before the first perturbed block of a pass may be taken from the record.

    The values are those of the ordinary pass in any case, so they could not come to be others. What a recorded module
    has done besides returning a result would be missing: a state that a later module reads, or a draw of random
    numbers.

    Args:
        sharing: The model bound to a batch.
        routes: The routes that are compared with whole passes.

    Returns:
        True if both ways give the same bits.
    """
    try:
        return all(_alike(sharing.behind_trunk(route), sharing.whole(route)) for route in routes)
    except Exception:  # noqa: BLE001 - whatever a model raises when some of its modules are not executed
        return False


def _alike(some: Outcome, other: Outcome) -> bool:
    ends = zip(some.stage_outputs, other.stage_outputs, strict=True)
    # A stage that a perturbed pass never reached has no end.
    return _same(some.output, other.output) and all(a is b or _same(a, b) for a, b in ends)


def trunk_routes(stages: Sequence[AdaptedStage]) -> list[Route]:
    """Make the routes that lack one block of a stage that is run by whole passes, so that trunks of all lengths end."""
    return [
        route
        for number, stage in enumerate(stages)
        if not stage.shared
        for route in _dropout_routes(stages, number, range(len(stage.blocks)))
    ]


def middle_routes(stages: Sequence[AdaptedStage]) -> list[Route]:
    """Make one of these routes for each stage, the one that lacks the block in its middle."""
    return [
        route
        for number, stage in enumerate(stages)
        if not stage.shared
        for route in _dropout_routes(stages, number, [len(stage.blocks) // 2])
    ]


def _dropout_routes(stages: Sequence[AdaptedStage], number: int, places: Sequence[int]) -> list[Route]:
    full = full_route(stages)
    path = full[number]
    return [(*full[:number], (*path[:out], *path[out + 1 :]), *full[number + 1 :]) for out in places]


def are_nested(stages: Sequence[AdaptedStage]) -> bool:
    """Return True if a block of one stage holds a block of another one."""
    blocks = {block for stage in stages for block in stage.blocks}
    return any(inner in blocks for block in blocks for inner in block.modules() if inner is not block)


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
