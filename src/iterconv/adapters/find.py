"""The search for a model's residual stages, which runs a probe batch and compares what its modules get and return."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from iterconv.adapters.calls import Arguments, answer_calls, call, call_itself, can_be_answered, switch_off_caches
from iterconv.adapters.streams import BlockCall, Streams, identity_share
from iterconv.errors import InputError
from iterconv.paths.untouched import rejections_in_a_line, untouched

LEAST_IDENTITY_SHARE = 0.25
"""The smallest identity share of residual blocks. Runs of other modules are taken only if a user names them.

Choice: blocks of trained and untrained residual networks have 0.45 and more, bare convolutions 0.05 at most."""


@dataclass(frozen=True)
class FoundStage:
    """A run of blocks of equal class that share one representational format."""

    name: str
    blocks: tuple[nn.Module, ...]
    identity_share: float = field(default=math.nan, compare=False)
    """The part of a small change of their input that the blocks pass on, as the median over the blocks."""

    def __str__(self) -> str:
        return f"{self.name}: {len(self.blocks)} x {type(self.blocks[0]).__name__}"


def run(model: nn.Module, inputs: Any) -> Any:
    """Return the model's output for a batch, in evaluation mode; a rejection of the batch becomes one line.

    Raises:
        InputError: If the model rejects the batch.
    """
    with rejections_in_a_line(model), untouched(model), switch_off_caches(model):
        return call(model, inputs)


def find_stages(model: nn.Module, inputs: Any) -> list[FoundStage]:
    """Find runs of two or more residual blocks of equal class, each of which takes the output of the one before.

    A block that is executed again and again is a run too: a recurrent stage, all of whose blocks are one module.
    Blocks count as residual if their measured identity share is at least ``LEAST_IDENTITY_SHARE``. Runs inside a block
    of a run are ignored, and a run whose members are whole stages is replaced by these stages.

    Args:
        model: Any module; it is run twice on the probe batch, in evaluation mode, and left as it was.
        inputs: The probe batch: a tensor, a tuple of arguments or a dictionary of keywords.

    Returns:
        The stages in the order in which they begin.

    Raises:
        InputError: If there is no such run, or the model rejects the batch.
    """
    calls = _record(model, inputs)
    candidates = list(_find_candidates("", model, calls))
    stages = [stage for candidate in candidates for stage in candidate.stages()]
    shares = measure_identity_shares(model, inputs, {stage: _find_streams(stage, calls) for stage in stages})
    chosen = [replace(stage, identity_share=shares[stage]) for run in candidates for stage in run.chosen(shares)]
    found = list({stage.blocks: stage for stage in reversed(chosen)}.values())  # a module may hang in two places
    if not found:
        raise InputError(_explain_no_stage(model, stages, shares))
    position = {module: number for number, module in enumerate(calls)}
    return sorted(found, key=lambda stage: position[stage.blocks[0]])


def _explain_no_stage(model: nn.Module, stages: list[FoundStage], shares: dict[FoundStage, float]) -> str:
    """Return the message for a model without stages, with the run that comes closest."""
    text = f"{type(model).__name__} has no run of two or more residual blocks of equal class that hand on to each other"
    if stages:
        best = max(stages, key=lambda stage: -math.inf if math.isnan(shares[stage]) else shares[stage])
        share = "an unknown part" if math.isnan(shares[best]) else f"{shares[best]:.2f}"
        text += f" ({best} passes on {share} of its input, residual blocks {LEAST_IDENTITY_SHARE} or more)"
    if not all(map(can_be_answered, model.modules())):
        text += ", and scripted modules can't be driven"
    return f'{text}; name the runs, as stages=["layer1.1:", "blocks"], or pass lists of modules'


def _record(model: nn.Module, inputs: Any) -> dict[nn.Module, list[BlockCall]]:
    """Record all calls of modules that may be blocks, in the order in which the modules finish."""
    calls: dict[nn.Module, list[BlockCall]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = Arguments(args, kwargs)
        result = call_itself(module, arguments)
        # Calls are kept until the search ends: a tensor is recognised by its place in memory, which must not be used
        # again.
        calls.setdefault(module, []).append(BlockCall(module, arguments, result))
        return result

    with answer_calls({module: note for module in model.modules() if _may_be_block(module)}):
        run(model, inputs)
    return calls


def _may_be_block(module: nn.Module) -> bool:
    """Return True for modules with weights that hold others or are not torch's; torch's bare layers hold no branch."""
    if not can_be_answered(module):
        return False
    has_weights = any(True for _ in module.parameters()) or any(
        hasattr(part, "_packed_params")
        for part in module.modules()  # quantised layers keep their weights there
    )
    own = not type(module).__module__.startswith("torch.")
    return has_weights and (own or any(True for _ in module.children()))


@dataclass(frozen=True)
class _Run:
    """A candidate for a stage, and the candidates inside each of its blocks."""

    stage: FoundStage
    inside: tuple[tuple["_Run", ...], ...]

    def stages(self) -> Iterator[FoundStage]:
        """Yield the candidate itself and all candidates inside its blocks."""
        yield self.stage
        for block in self.inside:
            for run in block:
                yield from run.stages()

    def chosen(self, shares: dict[FoundStage, float]) -> list[FoundStage]:
        """Return the candidate itself if its blocks are residual, else the stages that are chosen inside them."""
        inside = [[stage for run in block for stage in run.chosen(shares)] for block in self.inside]
        deeper = [stage for block in inside for stage in block]
        if not shares[self.stage] >= LEAST_IDENTITY_SHARE:  # also true for NaN, a share that can't be measured
            return deeper
        # Each member is a whole stage, not a block, if it holds residual runs and their lengths differ or exceed two.
        lengths = [sum(len(stage.blocks) for stage in block) for block in inside]
        are_stages = min(lengths) > 1 and (len(set(lengths)) > 1 or min(lengths) > 2)
        return deeper if are_stages and len(set(self.stage.blocks)) > 1 else [self.stage]


def _find_candidates(name: str, module: nn.Module, calls: dict[nn.Module, list[BlockCall]]) -> Iterator[_Run]:
    """Find the runs among a module's children, and those below the children that are in no run."""
    members: list[tuple[str, nn.Module]] = []
    # Only neighbours can be a run; a child in between ends it.
    for child_name, child in [*module.named_children(), ("", None)]:  # None closes the last row
        if members and child is not None and _follows(members[-1][1], child, calls):
            members.append((child_name, child))
            continue
        if members:
            yield from _close_row(name, module, members, calls)
        members = [] if child is None else [(child_name, child)]


def _close_row(name: str, parent: nn.Module, members: list[tuple[str, nn.Module]], calls: Any) -> Iterator[_Run]:
    """Yield the run of a row of children that hand on to each other; a row of one may be a loop, or hold runs."""
    inside = [tuple(_find_candidates(_join(name, label), child, calls)) for label, child in members]
    first_name, first = members[0]
    times = _count_times_in_a_row(first, calls)
    if len(members) > 1:
        stage = FoundStage(_name_run(name, members, parent), tuple(block for _, block in members))
        yield _Run(stage, tuple(inside))
    elif times > 1:
        yield _Run(FoundStage(f"{_join(name, first_name)}*{times}", (first,) * times), tuple(inside))
    else:
        yield from inside[0]


def _follows(block: nn.Module, other: nn.Module, calls: dict[nn.Module, list[BlockCall]]) -> bool:
    own, others = calls.get(block, []), calls.get(other, [])
    # A block that is called several times is a loop by itself, see `_close_row`.
    return type(other) is type(block) and len(own) == len(others) == 1 and _hand_on([own[0], others[0]])


def _count_times_in_a_row(module: nn.Module, calls: dict[nn.Module, list[BlockCall]]) -> int:
    """Count the executions of a module that is always executed on its own output; 0 for others."""
    made = calls.get(module, [])
    return len(made) if len(made) > 1 and _hand_on(made) else 0


def _hand_on(calls: Sequence[BlockCall]) -> bool:
    """Return True if each call gets, in some stream, the result of the one before, and all keep the shape."""
    streams = Streams.of(calls, linked=True)
    return streams is not None and not any(streams.misfit(call) for call in calls)


def _find_streams(stage: FoundStage, calls: dict[nn.Module, list[BlockCall]]) -> Streams | None:
    return Streams.of([call for block in dict.fromkeys(stage.blocks) for call in calls[block]])


def measure_identity_shares(
    model: nn.Module, inputs: Any, streams: dict[FoundStage, Streams | None]
) -> dict[FoundStage, float]:
    """Measure the identity share of stages: the part of a small change of their input that their blocks pass on.

    Args:
        model: The model; it is run once on the batch, in evaluation mode, and left as it was.
        inputs: A batch that the model takes.
        streams: The streams of each stage, that is, the tensors that its blocks hand on.

    Returns:
        The median over the calls of each stage's blocks; NaN if it can't be measured.
    """
    # Reversed, so that of two runs with the same block the first one keeps it.
    owners = {block: stage for stage in reversed(streams) for block in stage.blocks}
    shares: dict[FoundStage, list[float]] = {stage: [] for stage in streams}
    # A fixed seed, so that the same model always has the same stages.
    generator = torch.Generator().manual_seed(0)
    measuring = False

    def handler(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal measuring
        arguments = Arguments(args, kwargs).without_cache()
        stage = owners[module]
        handed_on = streams[stage]
        if not measuring and handed_on is not None:  # blocks inside a measured block are not measured with it
            measuring = True
            try:
                shares[stage].append(identity_share(handed_on, module, arguments, generator))
            finally:
                measuring = False
        return call_itself(module, arguments)

    with suppress(InputError), answer_calls(dict.fromkeys(owners, handler)):
        run(model, inputs)  # the model is known to run; it can only fail on the extra calls of blocks
    return {stage: median(found) if found else math.nan for stage, found in shares.items()}


def _name_run(parent: str, members: list[tuple[str, nn.Module]], module: nn.Module) -> str:
    children = [name for name, _ in module.named_children()]
    first, last = children.index(members[0][0]), children.index(members[-1][0])
    if len(members) == len(children):
        return parent or type(module).__name__
    end = "" if last == len(children) - 1 else str(last + 1)
    return f"{parent}.{first}:{end}" if parent else f"{first}:{end}"


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
