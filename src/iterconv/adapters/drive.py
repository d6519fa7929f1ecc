"""The general way: one forward pass of the whole model, in which the blocks of every stage execute a path.

The model's own ``forward`` calls its blocks one after the other; each of these calls is a *place*. The blocks of a path
are executed in the path's order, each at the place of the highest block so far. So a drop-out leaves one place empty,
an early read-out leaves all later places empty, a repetition calls a block again at its place, and a swap executes both
blocks at the place of the later one. An empty place hands on its input. A block always gets its own arguments, with the
running representation in them: the arguments that the model gave in this very pass at the block's own place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from iterconv.adapters.calls import Arguments, call_itself, hold_own_hooks
from iterconv.adapters.find import FoundStage
from iterconv.adapters.streams import BlockCall, Streams, Values, describe_misfit
from iterconv.errors import InputError
from iterconv.paths.families import Path
from iterconv.tasks.nested import Place, clone

Watch = Callable[[Tensor], None]

MOST_CALLS = 1000
"""The most extra calls, beyond an ordinary pass, that a loop over a block may make before the pass is given up."""


@dataclass(eq=False)
class Driven:
    """A stage, and the facts about its blocks that are needed to drive them."""

    found: FoundStage
    streams: Streams
    forms: tuple[Any, ...]
    """The form of each place's result without tensors, or ``ASK`` if a dropped block has to compute the tensors in its
    result that are not handed on."""
    in_place: tuple[set[Place], ...]
    """The streams, for each place, in which the block hands on the very tensor that it got, changed in place."""

    @classmethod
    def of(cls, found: FoundStage, calls: Sequence[BlockCall]) -> "Driven":
        """Prepare a stage from the calls of its blocks in one ordinary pass.

        Args:
            found: The stage.
            calls: All calls of its blocks, in their order.

        Returns:
            The stage, ready to be driven.

        Raises:
            InputError: If the blocks are not called once each in their turn, or the input of some block can't replace
                its result.
        """
        _check_turns(found, calls)
        streams = Streams.of(calls)
        for place, called in enumerate(calls):
            misfit = describe_misfit(called) if streams is None else streams.misfit(called)
            if misfit:
                raise InputError(f"block {place + 1} of stage {found.name!r} {misfit}; name runs that keep the shape")
        assert streams is not None, "where nothing is handed on, some block makes no tensor of a shape that it gets"
        forms = tuple(streams.hollow(called.result) if streams.are_all_of(called) else ASK for called in calls)
        return cls(found, streams, forms, tuple(map(streams.in_place, calls)))


def _check_turns(stage: FoundStage, made: Sequence[BlockCall]) -> None:
    """Raise ``InputError`` unless each block was called once, in its turn."""
    for place, (block, called) in enumerate(zip(stage.blocks, made, strict=False)):
        if called.module is not block:
            raise InputError(
                f"block {place + 1} of stage {stage.name!r} is not executed in its turn; "
                "name the runs in the order of execution"
            )
    check_count(stage, len(made), made[-1].module if made else None)


def check_count(stage: FoundStage, calls: int, last: nn.Module | None) -> None:
    """Raise ``InputError`` unless a stage was called as often as it has places; ``last`` is the last called block."""
    if calls < len(stage.blocks):
        raise InputError(f"block {calls + 1} of stage {stage.name!r} is not executed; name other runs")
    if calls > len(stage.blocks):
        kind = type(last).__name__
        raise InputError(f"a {kind} runs again after all blocks of stage {stage.name!r}; name other runs")


ASK = object()
"""The mark of a place whose block has to be asked for the form of its result."""


@dataclass(eq=False)
class StagePass:
    """One stage during one pass of the model; it answers the calls of the stage's blocks."""

    stage: Driven
    path: Path
    calls: list[Arguments] = field(default_factory=list)
    """The arguments that the model has given at each place so far."""
    end: Tensor | None = None
    """The representation behind the last place so far, as a copy at the end of the stage; None before the first."""
    watch: Watch | None = None
    """Called with the representation after each block that is executed, if it is given."""

    def __post_init__(self) -> None:
        self._todo: dict[int, list[int]] = {}
        # The running maximum of the path is the place at which each of its blocks is executed.
        for place, block in zip(accumulate(self.path, max), self.path, strict=True):
            self._todo.setdefault(place, []).append(block)
        # A loop whose length depends on the data may go on behind the last place.
        self._goes_on = bool(self.path) and self.path[-1] == len(self.stage.found.blocks) - 1

    def perturbs(self, place: int) -> bool:
        """Return True unless a place executes its own block once, as in the ordinary pass."""
        return self._todo.get(place) != [place]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Execute the blocks of the path that belong to this place."""
        found = self.stage.found
        place = len(self.calls)
        self._check(module, place)
        own = Arguments(args, kwargs).without_cache()
        # Kept for blocks that the path executes later: a block gets the arguments of its own place.
        self.calls.append(own)
        # Calls behind the last place come from a loop over one module whose length depends on the data.
        blocks = self._todo.get(place, []) if place < len(found.blocks) else [place] * self._goes_on
        # A library's own hooks expect one entry for each place, whatever is executed there.
        with hold_own_hooks(found.blocks) as fire_held_hooks:
            result = self._execute(module, place, blocks)
        return fire_held_hooks(module, args, kwargs, result)

    def _execute(self, module: nn.Module, place: int, blocks: list[int]) -> Any:
        found, streams = self.stage.found, self.stage.streams
        z, result = streams.entering(self.calls[place]), None
        for block in blocks:
            # In a loop that is longer than in the first pass, the one block has no number of its own.
            own_module = found.blocks[min(block, len(found.blocks) - 1)]
            result = call_itself(own_module, streams.fill_arguments(self.calls[block], z))
            z = {**z, **streams.leaving(result)}
            if self.watch:
                self.watch(z[streams.representation])
        self.end = z[streams.representation]
        if place >= len(found.blocks) - 1:  # the rest of the model may change it in place
            self.end = self.end.clone()
        return result if blocks else self._hand_on(module, place, self.calls[place], z)

    def _hand_on(self, module: nn.Module, place: int, own: Arguments, z: Values) -> Any:
        """Return the input in the form of a result.

        The input is copied, since the model may change a block's result in place, which must not reach the block's
        input. It is not copied in streams in which the block itself returns the very tensor that it got.
        """
        place = min(place, len(self.stage.forms) - 1)
        form, in_place = self.stage.forms[place], self.stage.in_place[place]
        if form is ASK:  # the result holds more: position biases, attention weights, losses
            asked = self.stage.streams.fill_arguments(own, clone(z))
            # Not a call of the module: hooks are to see executed blocks only, and the call would come back to this
            # handler.
            form = module.forward(*asked.args, **asked.kwargs)
        return self.stage.streams.fill_result(
            form, {out: tensor if out in in_place else tensor.clone() for out, tensor in z.items()}
        )

    def _check(self, module: nn.Module, place: int) -> None:
        blocks = self.stage.found.blocks
        if place < len(blocks) and blocks[place] is not module:
            ordinary = self.path == tuple(range(len(blocks)))
            when = "on this batch" if ordinary else "with some of them left out or repeated"
            raise InputError(
                f"{when}, the model calls the blocks of stage {self.stage.found.name!r} in another order than on the "
                "batch that it was adapted on; name other runs"
            )
        if place >= len(blocks) + MOST_CALLS:
            raise InputError(f"the loop over stage {self.stage.found.name!r} does not end; name other runs")
