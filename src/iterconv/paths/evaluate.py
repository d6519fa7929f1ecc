"""The evaluator: it runs many routes through a staged model and computes once what they share."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from iterconv.errors import InputError
from iterconv.paths.contract import Bindable, Bound, Staged, require_staged
from iterconv.paths.damping import Damped, damp
from iterconv.paths.families import Route
from iterconv.paths.untouched import model_name, rejections_in_a_line, untouched

_Step = tuple[int, int]
"""One step of a route as (stage, block). Block -1 enters the stage, and the number of stages stands for the head."""


def full_route(stages: Iterable[Any]) -> Route:
    """Return the route of the ordinary pass through all stages."""
    return tuple(tuple(range(len(stage.blocks))) for stage in stages)


@dataclass(frozen=True)
class Outcome:
    """The result of one route on one batch."""

    stage_outputs: tuple[Any, ...]
    """The representation at the end of each stage."""
    output: Any
    """The output of the head for the last representation."""


def evaluate(model: Any, routes: Iterable[Route], inputs: Any) -> Iterator[tuple[Route, Outcome]]:
    """Run routes through a staged model, computing each shared beginning once.

    The routes form a prefix tree over the network's steps, which is walked depth first. A block application that many
    routes share is computed once, and one activation is kept for each level at which a later route branches off.
    Nothing is stacked or fused, so that each result is bit-identical to running its route alone. The first route is
    evaluated first, and the others in the order of how long they stay with it. So give the ordinary pass first, and
    compare the others with it as they come.

    In foreign models, a route that perturbs a stage whose beginnings can't be shared takes one pass of the whole model,
    or of what comes after its first perturbed block.

    Args:
        model: A model that satisfies the contract, in evaluation mode if nothing is to change.
        routes: The routes, each with a path for every stage; a path may be empty. Repeated routes are evaluated once.
        inputs: A batch that the model takes.

    Yields:
        Each different route with its outcome, in the order of the walk.

    Raises:
        InputError: If a route does not have one path for each stage or names a block that does not exist, if a block
            changes its input in place, if a damped route would take a pass of the whole model, or if the model rejects
            the batch.
    """
    routes = list(routes)
    for route in routes:  # bad routes are refused before the model is run
        steps_of(route, model.stages)
        refuse_damping(route, model.stages)
    return evaluate_bound(bind(model, inputs), routes, inputs)


def bind(model: Any, inputs: Any) -> Staged:
    """Bind a foreign model to a batch; other models satisfy the contract as they are."""
    with rejections_in_a_line(model):
        bound: Staged = model.bind(inputs) if isinstance(model, Bindable) else model
        return bound


def evaluate_bound(model: Staged, routes: Sequence[Route], inputs: Any = None) -> Iterator[tuple[Route, Outcome]]:
    """Run routes as ``evaluate`` does, through a model that is bound to a batch already or need not be."""
    # A dictionary is a set that keeps the order.
    alone = dict.fromkeys(route for route in routes if runs_alone(model.stages, route))
    for route in alone:  # again, as on this batch more stages may be run by whole passes
        refuse_damping(route, model.stages)
    together = _walk(model, [route for route in routes if route not in alone], inputs)
    apart = _whole_passes(model, list(alone))
    # The caller compares the other routes with the first one, so it has to come first.
    return chain(apart, together) if routes and routes[0] in alone else chain(together, apart)


def runs_alone(stages: Any, route: Route) -> bool:
    """Return True if a route takes a pass of the whole model: it perturbs a stage whose beginnings can't be shared."""
    return any(
        not getattr(stage, "shared", True) and path != tuple(range(len(stage.blocks)))
        for stage, path in zip(stages, route, strict=True)
    )


def refuse_damping(route: Route, stages: Any) -> None:
    """Raise ``InputError`` if a route with damped blocks takes a pass of the whole model, where no step is damped."""
    if runs_alone(stages, route) and any(isinstance(block, Damped) for path in route for block in path):
        raise InputError(
            f"route {route} damps blocks of a model that runs it by passes of the whole model, in which steps can't be "
            "damped; print(iterconv.adapt(model, inputs)) tells the stages whose blocks can be run by themselves"
        )


def _whole_passes(model: Staged, routes: Sequence[Route]) -> Iterator[tuple[Route, Outcome]]:
    """Run each route by a pass of the whole model."""
    for route in routes:
        with rejections_in_a_line(model):
            # Only stages of foreign models are run by passes of the whole model.
            outcome = cast(Bound, model).alone(route)
        yield route, outcome


def _walk(model: Staged, routes: Sequence[Route], inputs: Any) -> Iterator[tuple[Route, Outcome]]:
    """Walk the prefix tree of the routes depth first; ``trunk[d]`` is the state after d shared steps."""
    if not routes:
        return
    stages = model.stages
    order = _order_walk({steps_of(route, stages): route for route in routes})
    ordinary = steps_of(full_route(stages), stages)
    known = model.along() if isinstance(model, Bound) else []  # a bound model has recorded the ordinary pass
    with rejections_in_a_line(model):
        trunk: list[State] = [State(model.stem(inputs), None, ())]
    for position, (steps, route) in enumerate(order):
        following = order[position + 1][0] if position + 1 < len(order) else ()
        kept = _count_common(steps, following)  # deeper states serve no later route
        recorded = min(_count_common(steps, ordinary), len(known))
        state = trunk[-1]  # the state after the steps that this route shares with the one before
        for depth in range(len(trunk) - 1, len(steps)):
            # Steps of the ordinary pass that a bound model has recorded are not computed again.
            z = known[depth] if depth < recorded else advance(model, state, steps[depth])
            state = next_state(state, steps[depth], len(stages), z)
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
        The number of the stage, the number of the block, the representations that enter and leave the block, and the
        stage, which in foreign models is bound to the batch.
    """
    bound = bind(model, inputs)
    # In a foreign model, something may happen between two blocks. So what enters a block and what leaves it are both
    # taken from the record, not one from the other.
    recorded = bound if isinstance(bound, Bound) else None
    along = iter(recorded.along() if recorded else ())
    state = State(None if recorded else bound.stem(inputs), None, ())
    for stage, block in steps_of(full_route(bound.stages), bound.stages)[:-1]:
        entering = recorded.entered(stage, block) if recorded and block >= 0 else state.z
        z = next(along) if recorded else advance(bound, state, (stage, block))
        state = next_state(state, (stage, block), len(bound.stages), z)
        if block >= 0:
            yield stage, block, entering, z, bound.stages[stage]


def block_applications(routes: Iterable[Route], stages: Any = ()) -> int:
    """Count the block applications that ``evaluate`` makes: the distinct beginnings that end in a block.

    Args:
        routes: The routes, each with a path for every stage.
        stages: The stages; they are needed if some of them are run by passes of the whole model.

    Returns:
        The number of applications, which is the minimum for these routes. Running each route alone would take the sum
        of the lengths of their paths. A pass of the whole model counts in full, also where its beginning is recorded.
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
class State:
    """The state of a pass between two steps."""

    z: Any
    stage_input: Any
    stage_outputs: tuple[Any, ...]


def next_state(state: State, step: _Step, stages: int, z: Any) -> State:
    """Return the state after a step that made ``z``."""
    stage, block = step
    if block >= 0:
        return State(z, state.stage_input, state.stage_outputs)
    # A step into a stage, or to the head, ends the stage before it.
    outputs = (*state.stage_outputs, state.z) if stage > 0 else ()
    return State(z, z if stage < stages else None, outputs)


def advance(model: Staged, state: State, step: _Step) -> Any:
    """Execute a step, and return the representation that it makes."""
    stage, block = step
    if block >= 0:
        return _apply(model, step, state)
    if stage == len(model.stages):
        return model.head(state.z)
    return state.z if stage == 0 else model.transitions[stage - 1](state.z)


def _apply(model: Staged, step: _Step, state: State) -> Any:
    """Apply a block, and raise ``InputError`` if it changes its input, which other routes still need."""
    stage, block = step
    held = [tensor for tensor in (state.z, state.stage_input) if isinstance(tensor, Tensor)]
    # Inference tensors carry no version; torch then refuses most in-place changes by itself.
    versions = [None if tensor.is_inference() else tensor._version for tensor in held]
    z = model.stages[stage].step(int(block), state.z, state.stage_input)
    if any(v is not None and tensor._version != v for tensor, v in zip(held, versions, strict=True)):
        raise InputError(
            f"block {block + 1} of stage {stage + 1} ({type(model.stages[stage].blocks[block]).__name__}) changes its "
            "input in place, which would spoil the paths that share it; let the block work on a copy"
        )
    return damp(state.z, z, block.size) if isinstance(block, Damped) else z


def steps_of(route: Route, stages: Any) -> tuple[_Step, ...]:
    """Return all steps of a route; raises ``InputError`` if the stages have no such route."""
    if len(route) != len(stages):
        raise InputError(f"route {route} has {len(route)} paths for {len(stages)} stages; give one a stage")
    steps: list[_Step] = []
    for number, (path, stage) in enumerate(zip(route, stages, strict=True)):
        for block in path:
            if not 0 <= block < len(stage.blocks):
                raise InputError(
                    f"path {path} names block {block}; paths number the blocks of stage {number + 1} from 0 "
                    f"to {len(stage.blocks) - 1}"
                )
        steps += [(number, -1), *((number, block) for block in path)]
    return (*steps, (len(stages), -1))


def _order_walk(routes: dict[tuple[_Step, ...], Route]) -> list[tuple[tuple[_Step, ...], Route]]:
    """Order routes depth first through the prefix tree, with the branch of the first route foremost."""
    first = next(iter(routes))
    # In sorted order, routes with a common beginning stand next to each other, so one branch is finished before the
    # next.
    return sorted(routes.items(), key=lambda item: (-_count_common(item[0], first), item[0]))


def _count_common(a: Sequence[_Step], b: Sequence[_Step]) -> int:
    """Count the steps at the beginning that two routes share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def verify(model: Any, reference: nn.Module, inputs: Any) -> None:
    """Check that the ordinary pass of a staged model, run block by block, reproduces the untouched reference.

    Args:
        model: A model that satisfies the contract.
        reference: The model for which it stands; for the package's own networks, the network itself.
        inputs: A batch that the reference accepts.

    Raises:
        InputError: If the contract is not met, or if the outputs differ in a single bit.
    """
    require_staged(model)
    with untouched(reference):
        expected = reference(inputs)
    if bool(expected.isnan().any()):
        raise InputError(f"{model_name(reference)} makes NaN of this batch; look for NaN in the batch and the weights")
    with untouched(model):
        [(_, outcome)] = evaluate(model, [full_route(model.stages)], inputs)
    # A tolerance would have to be chosen anew for each model and precision. The same steps give the same bits.
    if not torch.equal(outcome.output, expected):
        raise InputError(
            f"run block by block, {model_name(model)} does not reproduce {model_name(reference)}: "
            f"outputs differ by up to {_largest_difference(outcome.output, expected)}; {_remedy(model)}"
        )


def _remedy(model: object) -> str:
    if isinstance(model, Bindable):
        return "two passes of such a model have to be equal, so remove what makes them differ, such as a state it keeps"
    return "check stem, transitions and head"


def _largest_difference(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        return f"their shapes {tuple(a.shape)} and {tuple(b.shape)}"
    return f"{(a - b).abs().max().item():.3g}"
