"""Path families, and the evaluator that runs many paths and computes what they share once.

A *path* is the sequence of blocks that one stage executes; a *route* is a path for every stage, that is,
one way through the whole network. All perturbations of the paper are routes in which a single stage leaves
its ordinary path.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, takewhile
from typing import Any

from torch import Tensor

from iterconv.errors import InputError
from iterconv.stages import Path, rejections_in_a_line

Route = tuple[Path, ...]
"""A path for every stage of a network."""

_Step = tuple[int, int]  # (stage, block); block -1 enters the stage, stage = number of stages is the head


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One perturbation of one stage."""

    family: str
    """One of ``FAMILIES``."""
    position: int
    """Blocks evaluated, the number of the block that is dropped or repeated or of the first one that is (1-based), the
    number of extra evaluations, how many blocks are reversed, or the number of the shuffle."""
    path: Path
    """The 0-based blocks that the stage executes."""


def early_readouts(num_blocks: int) -> list[Perturbation]:
    """Stop after t = 1..T blocks; t = T is the ordinary pass. Source: Lippl et al., Sec. 3.3."""
    return [Perturbation(family="early read-out", position=t, path=tuple(range(t))) for t in range(1, num_blocks + 1)]


def dropouts(num_blocks: int) -> list[Perturbation]:
    """Leave out block t = 1..T. Source: Lippl et al., Sec. 3.3."""
    full = range(num_blocks)
    return [
        Perturbation(family="drop-out", position=t + 1, path=tuple(block for block in full if block != t)) for t in full
    ]


def extra_evaluations(num_blocks: int, most: int = 16) -> list[Perturbation]:
    """Evaluate the last block k = 0..``most`` more times; k = 0 is the ordinary pass.

    Source: Lippl et al., Sec. 3.3.
    """
    full, last = tuple(range(num_blocks)), num_blocks - 1
    return [Perturbation(family="extra evaluation", position=k, path=full + (last,) * k) for k in range(most + 1)]


def repetitions(num_blocks: int) -> list[Perturbation]:
    """Evaluate block t = 1..T twice in a row."""
    full = tuple(range(num_blocks))
    return [Perturbation(family="repetition", position=t + 1, path=(*full[: t + 1], t, *full[t + 1 :])) for t in full]


def swaps(num_blocks: int) -> list[Perturbation]:
    """Exchange blocks t and t + 1, t = 1..T-1. Source: Veit et al. 2016, Sec. 4.3, exchange blocks in this way."""
    full = tuple(range(num_blocks))
    return [Perturbation(family="swap", position=t + 1, path=(*full[:t], t + 1, t, *full[t + 2 :])) for t in full[:-1]]


def reversals(num_blocks: int) -> list[Perturbation]:
    """Execute the last k = 2..T blocks in reverse order."""
    full = tuple(range(num_blocks))
    return [
        Perturbation(family="reversal", position=k, path=full[:-k] + full[-k:][::-1]) for k in range(2, num_blocks + 1)
    ]


def shuffles(num_blocks: int, count: int = 16, seed: int = 0) -> list[Perturbation]:
    """Execute all blocks in a random order, ``count`` times; the orders follow from the seed and may repeat."""
    generator = random.Random(seed)
    return [
        Perturbation(family="shuffle", position=k, path=tuple(generator.sample(range(num_blocks), num_blocks)))
        for k in range(1, count + 1)
    ]


def pair_dropouts(num_blocks: int) -> list[Perturbation]:
    """Leave out every two blocks; the position is the first one's."""
    full = range(num_blocks)
    return [
        Perturbation(family="pair drop-out", position=a + 1, path=tuple(b for b in full if b not in (a, other)))
        for a, other in combinations(full, 2)
    ]


def run_dropouts(num_blocks: int) -> list[Perturbation]:
    """Leave out every run of two or more blocks; the position is the first one's."""
    full = tuple(range(num_blocks))
    return [
        Perturbation(family="run drop-out", position=a + 1, path=full[:a] + full[end:])
        for a, end in combinations(range(num_blocks + 1), 2)
        if end - a > 1
    ]


FAMILIES: dict[str, Callable[[int], list[Perturbation]]] = {
    "early read-out": early_readouts,
    "drop-out": dropouts,
    "extra evaluation": extra_evaluations,
    "repetition": repetitions,
    "swap": swaps,
    "reversal": reversals,
    "shuffle": shuffles,
    "pair drop-out": pair_dropouts,
    "run drop-out": run_dropouts,
}
"""Perturbations of a stage from its number of blocks; the first three are the paper's."""


def full_route(stages: Iterable[Any]) -> Route:
    """The ordinary pass through the whole network."""
    return tuple(tuple(range(len(stage.blocks))) for stage in stages)


@dataclass(frozen=True)
class Outcome:
    """What one route leads to, for one batch."""

    stage_outputs: tuple[Any, ...]
    """The representation at the end of each stage."""
    output: Any
    """What the head made of the last one."""


def evaluate(model: Any, routes: Iterable[Route], inputs: Any) -> Iterator[tuple[Route, Outcome]]:
    """Run routes through a staged model, computing each shared beginning once.

    The routes form a prefix tree over the network's steps, which is walked depth first: a block application
    that many routes share is computed once, and what is kept is one activation for each level at which a
    later route branches off. Nothing is stacked or fused, so that each result is bit-identical to running its
    route alone. The first route given is evaluated first and the others by how long they stay with it, so
    give the ordinary pass first and compare the others with it as they come.

    Stages of foreign models whose beginnings can't be shared are run by one pass of the whole model for each route.

    Args:
        model: A model that satisfies the contract, in evaluation mode if nothing is to change.
        routes: Paths for every stage; a path may be empty. Repeated routes are evaluated once.
        inputs: A batch that the model takes.

    Yields:
        Each different route with its outcome, in the order of the walk.

    Raises:
        InputError: If a route has not one path a stage, names a block that is not there, or if a block
            changes its input in place, or the model rejects the batch.
    """
    routes = list(routes)
    for route in routes:
        _steps(route, model.stages)
    with rejections_in_a_line(model):
        bound = model.bind(inputs) if hasattr(model, "bind") else model
    return evaluate_bound(bound, routes, inputs)


def evaluate_bound(model: Any, routes: Sequence[Route], inputs: Any = None) -> Iterator[tuple[Route, Outcome]]:
    """As ``evaluate``, for a model that is bound to a batch already, or needs not be."""
    alone = dict.fromkeys(route for route in routes if runs_alone(model.stages, route))
    together = _walk(model, [route for route in routes if route not in alone], inputs)
    apart = _whole_passes(model, list(alone))
    return chain(apart, together) if routes and routes[0] in alone else chain(together, apart)


def runs_alone(stages: Any, route: Route) -> bool:
    """Whether a route takes a pass of the whole model, as it perturbs a stage whose beginnings can't be shared."""
    return any(
        not getattr(stage, "shared", True) and path != tuple(range(len(stage.blocks)))
        for stage, path in zip(stages, route, strict=True)
    )


def _whole_passes(model: Any, routes: Sequence[Route]) -> Iterator[tuple[Route, Outcome]]:
    for route in routes:
        with rejections_in_a_line(model):
            outcome = model.whole(route)
        yield route, outcome


def _walk(model: Any, routes: Sequence[Route], inputs: Any) -> Iterator[tuple[Route, Outcome]]:
    if not routes:
        return
    stages = model.stages
    order = _walk_order([_steps(route, stages) for route in routes])
    ordinary, _ = _steps(full_route(stages), stages)
    known = model.along() if hasattr(model, "along") else []  # what a bound model has recorded need not be computed
    with rejections_in_a_line(model):
        trunk: list[_State] = [_State(model.stem(inputs), None, ())]
    for position, (steps, route) in enumerate(order):
        following = order[position + 1][0] if position + 1 < len(order) else ()
        kept = _common(steps, following)  # deeper states serve no later route
        recorded = min(_common(steps, ordinary), len(known))
        state = trunk[-1]
        for depth in range(len(trunk) - 1, len(steps)):
            z = known[depth] if depth < recorded else _advance(model, state, steps[depth])
            state = _next(state, steps[depth], len(stages), z)
            if depth < kept:
                trunk.append(state)
        yield route, Outcome(state.stage_outputs, state.z)
        del state  # frees the activation before the next branch is computed
        del trunk[kept + 1 :]


def block_inputs(model: Any, inputs: Any) -> Iterator[tuple[int, int, Any, Any, Any]]:
    """Follow the ordinary pass block by block.

    Args:
        model: A model that satisfies the contract.
        inputs: A batch that it takes.

    Yields:
        The number of the stage, the number of the block, what enters and what leaves the block, and the stage, which
        for foreign models is bound to the batch.
    """
    with rejections_in_a_line(model):
        bound = model.bind(inputs) if hasattr(model, "bind") else model
    along = iter(bound.along()) if hasattr(bound, "along") else None
    state = _State(None if along else bound.stem(inputs), None, ())
    for stage, block in _steps(full_route(bound.stages), bound.stages)[0][:-1]:
        entering = bound.entered(stage, block) if along and block >= 0 else state.z
        z = next(along) if along else _advance(bound, state, (stage, block))
        state = _next(state, (stage, block), len(bound.stages), z)
        if block >= 0:
            yield stage, block, entering, z, bound.stages[stage]


def block_applications(routes: Iterable[Route], stages: Any = ()) -> int:
    """Count the block applications that ``evaluate`` makes: the distinct beginnings that end in a block.

    Args:
        routes: Paths for every stage.
        stages: The stages, if some of them are run by passes of the whole model, whose beginnings are not shared.

    Returns:
        The minimum for these routes; running each alone takes the sum of their paths' lengths.
    """
    routes = set(routes)
    alone = {route for route in routes if stages and runs_alone(stages, route)}
    beginnings = {
        (route[:stage], route[stage][: length + 1])
        for route in routes
        if route not in alone
        for stage in range(len(route))
        for length in range(len(route[stage]))
    }
    return len(beginnings) + sum(len(path) for route in alone for path in route)


@dataclass(frozen=True)
class _State:
    z: Any
    stage_input: Any
    stage_outputs: tuple[Any, ...]


def _next(state: _State, step: _Step, stages: int, z: Any) -> _State:
    """The state behind a step that made ``z``."""
    stage, block = step
    if block >= 0:
        return _State(z, state.stage_input, state.stage_outputs)
    outputs = (*state.stage_outputs, state.z) if stage > 0 else ()
    return _State(z, z if stage < stages else None, outputs)


def _advance(model: Any, state: _State, step: _Step) -> Any:
    """What a step makes of the representation."""
    stage, block = step
    if block >= 0:
        return _apply(model, step, state)
    if stage == len(model.stages):
        return model.head(state.z)
    return state.z if stage == 0 else model.transitions[stage - 1](state.z)


def _apply(model: Any, step: _Step, state: _State) -> Any:
    stage, block = step
    held = [tensor for tensor in (state.z, state.stage_input) if isinstance(tensor, Tensor)]
    # Inference tensors carry no version; torch then refuses most in-place changes by itself.
    versions = [None if tensor.is_inference() else tensor._version for tensor in held]
    z = model.stages[stage].step(block, state.z, state.stage_input)
    if any(v is not None and tensor._version != v for tensor, v in zip(held, versions, strict=True)):
        raise InputError(
            f"block {block + 1} of stage {stage + 1} ({type(model.stages[stage].blocks[block]).__name__}) changes its "
            "input in place, which would spoil the paths that share it; let the block work on a copy"
        )
    return z


def _steps(route: Route, stages: Any) -> tuple[tuple[_Step, ...], Route]:
    if len(route) != len(stages):
        raise InputError(f"route {route} has {len(route)} paths for {len(stages)} stages; give one a stage")
    steps: list[_Step] = []
    for number, (path, stage) in enumerate(zip(route, stages, strict=True)):
        for block in path:
            if not 0 <= block < len(stage.blocks):
                raise InputError(f"path {path} names block {block}; stage {number} has 0..{len(stage.blocks) - 1}")
        steps += [(number, -1), *((number, block) for block in path)]
    return (*steps, (len(stages), -1)), route


def _walk_order(
    programs: Sequence[tuple[tuple[_Step, ...], Route]],
) -> list[tuple[tuple[_Step, ...], Route]]:
    """Depth first through the prefix tree, the first program's branch foremost and its leaf first."""
    if not programs:
        return []
    first = programs[0][0]
    unique = {steps: route for steps, route in programs}
    order = sorted(unique, key=lambda steps: (-_common(steps, first), steps))
    return [(steps, unique[steps]) for steps in order]


def _common(a: Sequence[_Step], b: Sequence[_Step]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
