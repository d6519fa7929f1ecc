"""Streams: the tensors that the blocks of a stage hand on to each other.

They also tell how a block that is left out hands on its input.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.adapters.calls import Arguments, call_itself
from iterconv.paths.untouched import untouched
from iterconv.tasks.nested import Place, clone, first_tensor, leaves_in, tensors_in, with_tensors


@dataclass(frozen=True)
class BlockCall:
    """One call of a block in an ordinary pass."""

    module: nn.Module
    arguments: Arguments
    result: Any


Values = dict[Place, Tensor]
"""The tensors that are handed on, by their place in a block's result."""


@dataclass(frozen=True)
class Streams:
    """The tensors that blocks hand on: from a place in a block's result to places in the next block's arguments.

    Most blocks hand on one tensor, the representation. Reversible blocks hand on two tensors, and blocks with a running
    sum of skips hand on that sum as well. A block that is left out hands on its own input in every stream that enters
    it.
    """

    places: tuple[tuple[Place, tuple[Place, ...]], ...]
    """The streams, each with its place in the result and the places in the arguments at which the same tensor enters.

    The first stream is the representation."""

    @classmethod
    def of(cls, calls: Sequence[BlockCall], linked: bool = False) -> "Streams | None":
        """Find the streams of a stage in one ordinary pass.

        Args:
            calls: The calls of its blocks in their order; none of their tensors may have been freed since.
            linked: True if only tensors that really reach the next block count.

        Returns:
            All streams by which some block hands on to the next, or None if there are none. Unless ``linked``, two
            guesses are added. If the first tensor of the results reaches no block, as when something happens between
            blocks, it counts as a stream into the first argument of its shape that is in no stream. And blocks that
            return a tuple whose tensors have the shapes of their first arguments hand on all of them.
        """
        # A link is a pair of places between which some block really hands on a tensor.
        links = list(dict.fromkeys(link for before, after in pairwise(calls) for link in _find_links(before, after)))
        first = next(iter(tensors_in(calls[0].result)), None)
        if not linked and first is not None and first not in {out for out, _ in links}:
            taken = {into for _, into in links}
            links += [(first, into) for into in _find_by_shape(calls, taken)]
        if not linked:
            outs = {out for out, _ in links}
            links += [(out, into) for out, into in _match_one_to_one(calls) if out not in outs]
        places: dict[Place, list[Place]] = {}
        for out, into in links:
            places.setdefault(out, []).append(into)
        # Streams stand in the order of the results; the first one is the representation.
        order = {place: number for number, place in enumerate(tensors_in(calls[0].result))}
        found = sorted(places.items(), key=lambda stream: order.get(stream[0], len(order)))
        return cls(tuple((out, tuple(into)) for out, into in found)) if found else None

    @property
    def representation(self) -> Place:
        """The place of the representation in a block's result."""
        return self.places[0][0]

    def misfit(self, call: BlockCall) -> str:
        """Tell why the input of a block can't replace its result in the representation; empty if it can."""
        given = self.entering(call.arguments).get(self.representation)
        made = tensors_in(call.result).get(self.representation)
        if given is None or made is None:
            return "hands on other tensors than the blocks around it"
        return f"makes {_kind(made, given)} of {_kind(given, made)}" if _differ(made, given) else ""

    def entering(self, arguments: Arguments) -> Values:
        """Return the tensors that enter a block, for each stream that does."""
        tensors = arguments.tensors()
        found = {out: next((tensors[place] for place in into if place in tensors), None) for out, into in self.places}
        # A stream may begin within the stage, as a sum of skips that its first block opens.
        return {out: tensor for out, tensor in found.items() if tensor is not None}

    def leaving(self, result: Any) -> Values:
        """Return the tensors that a block hands on, for each stream that leaves it."""
        tensors = tensors_in(result)
        return {out: tensors[out] for out, _ in self.places if out in tensors}

    def fill_arguments(self, arguments: Arguments, values: Values) -> Arguments:
        """Return the arguments of a block with other tensors in its streams."""
        tensors = arguments.tensors()
        return arguments.with_tensors(
            {place: values[out] for out, into in self.places for place in into if out in values and place in tensors}
        )

    def in_place(self, call: BlockCall) -> set[Place]:
        """Return the streams in which a block hands on the very tensor that it got, changed in place."""
        entering = self.entering(call.arguments)
        return {out for out, made in self.leaving(call.result).items() if is_same_tensor(made, entering.get(out))}

    def fill_result(self, result: Any, values: Values) -> Any:
        """Return a block's result with other tensors in its streams."""
        return with_tensors(result, {out: values[out] for out, _ in self.places if out in values})

    def are_all_of(self, call: BlockCall) -> bool:
        """Return True if all of a block's result is handed on and has a counterpart that enters the block."""
        return set(leaves_in(call.result)) <= set(self.entering(call.arguments))

    def hollow(self, result: Any) -> Any:
        """Return the form of a block's result, without the tensors that are handed on."""
        return with_tensors(result, dict.fromkeys(self.leaving(result)))


def describe_misfit(call: BlockCall) -> str:
    """Describe the input and the result of a block of which neither has a counterpart in the other."""
    given, made = first_tensor((call.arguments.args, call.arguments.kwargs)), first_tensor(call.result)
    if made is None or given is None:
        return f"makes {_form(made)} of {_form(given)}"
    return f"makes {_kind(made, given)} of {_kind(given, made)}"


def _form(tensor: Tensor | None) -> str:
    return "no tensor" if tensor is None else str(tuple(tensor.shape))


def _kind(tensor: Tensor, other: Tensor) -> str:
    shape = _form(tensor)
    return shape if tensor.dtype == other.dtype else f"{shape} in {str(tensor.dtype).removeprefix('torch.')}"


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape or a.dtype != b.dtype


def is_same_tensor(a: Any, b: Any) -> bool:
    """Return True if two tensors, both alive, are one and the same place in memory."""
    if a is b:
        return True
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.is_nested or b.is_nested or a.shape != b.shape:
        return False
    # A view of a whole tensor is another object in the same place.
    return a.numel() > 0 and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()


def _find_links(before: BlockCall, after: BlockCall) -> Iterable[tuple[Place, Place]]:
    """Find the places in one block's result and in the next block's arguments that hold the same tensor."""
    own, following = before.arguments.tensors(), after.arguments.tensors()
    for out, made in tensors_in(before.result).items():
        for into, given in following.items():
            if into in own and own[into].shape == made.shape and is_same_tensor(made, given):
                yield out, into  # the block before got a tensor of that shape in the same place


def _match_one_to_one(calls: Sequence[BlockCall]) -> list[tuple[Place, Place]]:
    """Match results and arguments by position, if every block returns a tuple of tensors and gets their likes first."""
    counts = {len(call.result) if isinstance(call.result, (tuple, list)) else 0 for call in calls}
    count = counts.pop()
    if counts or count < 2:  # the blocks return different numbers of tensors, or only one
        return []
    for call in calls:
        for made, given in zip(call.result, call.arguments.args, strict=False):
            if not (isinstance(made, Tensor) and isinstance(given, Tensor)) or _differ(made, given):
                return []
        if len(call.arguments.args) < count:
            return []
    return [((number,), (0, number)) for number in range(count)]


def _find_by_shape(calls: Sequence[BlockCall], taken: set[Place]) -> list[Place]:
    """Find the argument that has the shape of the first result and is in no stream, with all places of that tensor.

    If several different tensors have that shape, such as a memory and the representation, the one of which the block
    passes on the largest part is taken.
    """
    made, arguments = first_tensor(calls[0].result), [call.arguments.tensors() for call in calls]
    free = [into for into in arguments[0] if into not in taken and arguments[0][into].shape == made.shape]
    # Places that hold the same tensor in every call form one kind.
    kinds: list[list[Place]] = []
    for into in free:
        alike = (kind for kind in kinds if all(is_same_tensor(each.get(kind[0]), each.get(into)) for each in arguments))
        kind = next(alike, None)
        if kind is None:
            kinds.append([into])
        else:
            kind.append(into)
    return max(kinds, key=lambda kind: _measure_share(calls[0], kind), default=[]) if len(kinds) > 1 else [*free]


def _measure_share(call: BlockCall, places: list[Place]) -> float:
    """Measure the identity share of a block as if its representation entered at these places; -1 if that fails."""
    first = next(iter(tensors_in(call.result)))
    try:
        streams = Streams(((first, tuple(places)),))
        share = identity_share(streams, call.module, call.arguments, torch.Generator().manual_seed(0))
    except Exception:  # noqa: BLE001 - whatever a block raises when another argument is changed
        return -1.0
    return -1.0 if math.isnan(share) else share


def identity_share(streams: Streams, module: nn.Module, arguments: Arguments, generator: torch.Generator) -> float:
    """Measure the part of a small random change of its input that a block passes on.

    It is near 1 for residual blocks and near 0 for others. It is the mean of
    <d, B(z + d) - B(z)> / |d|^2, with d a hundredth of the size of z (a tenth in half precision), which estimates the
    mean of the diagonal of the block's Jacobian.

    Source: Hutchinson's estimator of a trace.

    Args:
        streams: The streams of the block; the first one is measured.
        module: The block.
        arguments: The arguments with which the block is called.
        generator: The generator of the change, on the CPU.

    Returns:
        The identity share; NaN for representations that are not floating-point numbers.
    """
    entering = streams.entering(arguments)
    z = entering[streams.representation].detach().clone()
    if not z.is_floating_point():
        return float("nan")
    # The change has to exceed the rounding of z, and to be small enough for the block to be nearly linear.
    size = z.float().square().mean().sqrt().clamp(min=1e-6) * (0.01 if torch.finfo(z.dtype).eps < 1e-4 else 0.1)
    d = torch.randn(z.shape, generator=generator).to(z.device) * size
    moved = (z + d).to(z.dtype)
    d = moved.float() - z.float()  # the change that is left after rounding to the precision of z

    def made(changed: Tensor) -> Tensor:
        values = {**entering, streams.representation: changed}
        with untouched(module):  # so that both calls draw the same random numbers
            copies = streams.fill_arguments(arguments, clone(values))
            return streams.leaving(call_itself(module, copies))[streams.representation].float()

    return float((d * (made(moved) - made(z))).sum() / d.square().sum())
