"""The shared way: a foreign model bound to one batch, whose recorded ordinary pass is continued from any stage.

The model's ``forward`` is run once and recorded: the input, the further arguments and the result of each block, and the
results of all modules outside the blocks. To go on from the end of a perturbed stage, ``forward`` is run again. The
modules that come before then return their recorded results, the stage returns the perturbed representation, and the
rest is executed for real, up to the next stage or the end. This is right as long as the rest depends on the stage only
through the one tensor that it hands on, which ``adapt`` proves by a comparison with whole passes (``drive.py``).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from iterconv.adapters.calls import (
    Arguments,
    Handler,
    answer_calls,
    call,
    call_itself,
    can_be_answered,
    switch_off_caches,
)
from iterconv.adapters.drive import Driven, StagePass, Watch, check_count
from iterconv.paths.evaluate import Outcome
from iterconv.paths.families import Path, Route
from iterconv.paths.untouched import Snapshot
from iterconv.tasks.base import Output
from iterconv.tasks.nested import clone


class Recording:
    """A model bound to one batch; it satisfies the contract of ``iterconv.StagedModel`` for that batch alone.

    Args:
        model: The model, in evaluation mode.
        driven: The stages of the model, in the order in which they begin.
        shared: True for each stage whose paths may share beginnings.
        outside: The largest modules that hold no block and are in none, as ``find_outside`` finds them.
        output: A function of the model's output and the batch that returns the logits that are measured.
        inputs: The batch.
        trunk: True if passes of the whole model may take from the record what comes before their first perturbed block.

    Raises:
        InputError: If a block is not executed as often as there are places for it.
    """

    def __init__(
        self,
        model: nn.Module,
        driven: Sequence[Driven],
        shared: Sequence[bool],
        outside: Sequence[nn.Module],
        output: Output,
        inputs: Any,
        trunk: bool = False,
    ) -> None:
        self.model, self.driven, self.output, self.inputs, self.trunk = model, driven, output, inputs, trunk
        # Every pass starts from here, since a model may keep a state, such as a count of its calls.
        self.start = Snapshot(model)
        self._order: list[tuple[int, int]] = []
        """The stage and the place of each call of a block, in the order of the calls."""
        self._passes = [_RecordedPass(stage, number, self._order) for number, stage in enumerate(driven)]
        # Only shared stages and trunks are continued; for others nothing outside the blocks is needed.
        self._outside = outside if any(shared) or trunk else ()
        self._results: dict[tuple[nn.Module, int], Any] = {}
        """The result of each call of a module outside the blocks, by the module and the number of the call."""
        self._made = self._record()
        self.stages = [_BoundStage(one, share) for one, share in zip(self._passes, shared, strict=True)]
        self.transitions = [_GoOn(self, number) for number in range(len(driven) - 1)]
        self.head = _GoOn(self, len(driven) - 1)

    @property
    def is_sequential(self) -> bool:
        """True if each stage begins after the one before has ended."""
        return self._order == sorted(self._order)

    def stem(self, inputs: Any) -> Any:
        """Return the representation that enters the first stage; the batch is bound already."""
        return self._passes[0].entered[0]

    def along(self) -> list[Any]:
        """List the recorded ordinary pass: the input of each stage, the result of each block, and the output last."""
        made: list[Any] = []
        for one in self._passes:
            made += [one.entered[0], *(one.left(place) for place in range(len(one.results)))]
        return [*made, self._made]

    def entered(self, stage: int, block: int) -> Tensor:
        """Return the representation that entered a block in the ordinary pass."""
        return self._passes[stage].entered[block]

    def alone(self, route: Route) -> Outcome:
        """Run a route as ``whole`` does, or faster where that is proven to give the same bits."""
        return self.behind_trunk(route) if self.trunk else self.whole(route)

    def whole(self, route: Route, watch: tuple[int, Watch] | None = None) -> Outcome:
        """Run a route by one forward pass of the whole model.

        Args:
            route: A path for every stage.
            watch: The number of a stage, and a function that gets the representation after each block that it executes.

        Returns:
            The outcome of the route.

        Raises:
            InputError: If the model can't be run in this way.
        """
        passes = [StagePass(stage, path) for stage, path in zip(self.driven, route, strict=True)]
        if watch:
            passes[watch[0]].watch = watch[1]
        made = self._run(_handlers(passes))
        return Outcome(tuple(one.end for one in passes), made)

    def behind_trunk(self, route: Route) -> Outcome:
        """Run a route by one forward pass of the whole model, whose part before the first perturbed block is recorded.

        Args:
            route: A path for every stage.

        Returns:
            The outcome of the route.
        """
        trunk = Trunk()
        passes = [_PassBehindTrunk(one, path, trunk) for one, path in zip(self._passes, route, strict=True)]
        perturbed = (number for number, (stage, place) in enumerate(self._order) if passes[stage].perturbs(place))
        trunk.length = next(perturbed, len(self._order))
        made = self._run({**self._answers(trunk), **_handlers(passes)})
        return Outcome(tuple(one.end for one in passes), made)

    def go_on(self, stage: int, z: Any) -> Any:
        """Go from the end of a stage to the beginning of the next one, or to the output.

        Args:
            stage: The number of the stage.
            z: The representation at its end.

        Returns:
            The representation that enters the next stage, or the output.
        """
        # Calls of blocks are counted over the whole pass, since a model may alternate between stages.
        last = self._order.index((stage, len(self.stages[stage].blocks) - 1))
        trunk = Trunk(last)

        def block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            number = trunk.calls
            trunk.calls += 1
            if number > last:  # the next stage begins, so the pass is left by an exception
                streams = self.driven[stage + 1].streams
                raise _ReachedError(streams.entering(Arguments(args, kwargs))[streams.representation])
            owner, place = self._order[number]
            return self._passes[owner].with_end(z) if number == last else self._passes[owner].results[place]

        blocks = {module for one in self._passes for module in one.stage.found.blocks}
        try:
            return self._run({**self._answers(trunk), **dict.fromkeys(blocks, block)})
        except _ReachedError as reached:
            return reached.z

    def _answers(self, trunk: "Trunk") -> dict[nn.Module, Handler]:
        """Answer the modules outside the blocks with their recorded results, as long as the pass is in its trunk."""
        calls: Counter[nn.Module] = Counter()

        def outside(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            key = (module, calls[module])
            calls[module] += 1
            # Calls that the ordinary pass did not make are executed, too.
            if trunk.calls > trunk.length or key not in self._results:
                return call_itself(module, Arguments(args, kwargs))
            return clone(self._results[key])  # the model may change it in place

        return dict.fromkeys(self._outside, outside)

    def _record(self) -> Any:
        """Run the ordinary pass and record it; returns the output."""
        counts: Counter[nn.Module] = Counter()

        def outside(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = call_itself(module, Arguments(args, kwargs))
            self._results[module, counts[module]] = clone(result)
            counts[module] += 1
            return result

        made = self._run({**dict.fromkeys(self._outside, outside), **_handlers(self._passes)})
        for one in self._passes:
            check_count(one.stage.found, len(one.calls), one.stage.found.blocks[-1])
        return made

    def _run(self, answering: Mapping[nn.Module, Handler]) -> Any:
        """Run a pass from the state in which the model was bound, and let handlers answer the calls of modules."""
        self.start.restore()
        with answer_calls(answering), switch_off_caches(self.model):
            return self.output(call(self.model, self.inputs), self.inputs)


def find_outside(model: nn.Module, blocks: set[nn.Module]) -> list[nn.Module]:
    """Find the largest modules that hold no block and are in none."""
    inside = {module for block in blocks for module in block.modules()}
    around = {parent for parent in model.modules() if not blocks.isdisjoint(parent.modules())} - inside
    children = {child: None for parent in around for child in parent.children() if child not in around | inside}
    return [child for child in children if can_be_answered(child)]


def _handlers(passes: Sequence[StagePass]) -> dict[nn.Module, StagePass]:
    """Map each block to the pass of its stage, which answers the calls of the block."""
    return {block: one for one in passes for block in one.stage.found.blocks}


class _ReachedError(Exception):
    """A message, not a failure: the next stage has been reached, and begins with this representation."""

    def __init__(self, z: Any) -> None:
        super().__init__()
        self.z = z


class _RecordedPass(StagePass):
    """One stage during the ordinary pass; it records the inputs and results of its blocks."""

    def __init__(self, stage: Driven, number: int, order: list[tuple[int, int]]) -> None:
        super().__init__(stage, tuple(range(len(stage.found.blocks))))
        self.number, self._order = number, order
        self.entered: list[Tensor] = []
        self.results: list[Any] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Execute the block as in any pass, and record its input and its result."""
        self._order.append((self.number, len(self.calls)))
        streams = self.stage.streams
        # Copies, since blocks may change their inputs in place.
        self.entered.append(streams.entering(Arguments(args, kwargs))[streams.representation].clone())
        result = super().__call__(module, args, kwargs)
        self.results.append(clone(result))
        return result

    def left(self, place: int) -> Tensor:
        """Return the representation that a block handed on."""
        return self.stage.streams.leaving(self.results[place])[self.stage.streams.representation]

    def with_end(self, z: Any) -> Any:
        """Return the result of the last block with another representation in it."""
        return self.stage.streams.fill_result(self.results[-1], {self.stage.streams.representation: z})


@dataclass(eq=False)
class Trunk:
    """The beginning of a pass, before the first result that differs from that of the ordinary pass."""

    length: int = 0
    """The number of calls of blocks before the one whose result differs."""
    calls: int = 0
    """The number of calls of blocks so far."""


class _PassBehindTrunk(StagePass):
    """One stage during a pass in which the calls of the trunk are answered with their recorded results."""

    def __init__(self, recorded: _RecordedPass, path: Path, trunk: Trunk) -> None:
        super().__init__(recorded.stage, path)
        self._recorded, self._trunk = recorded, trunk

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer the call of a block, and count it."""
        self._trunk.calls += 1
        return super().__call__(module, args, kwargs)

    def _execute(self, module: nn.Module, place: int, blocks: list[int]) -> Any:
        if self._trunk.calls > self._trunk.length:
            return super()._execute(module, place, blocks)
        self.end = self._recorded.left(place).clone()
        return clone(self._recorded.results[place])


class _BoundStage:
    """A stage whose blocks are the model's own, called with the arguments that the model gave them for this batch."""

    def __init__(self, recorded: _RecordedPass, shared: bool) -> None:
        self.blocks, self.shared = recorded.stage.found.blocks, shared
        self._recorded = recorded

    def step(self, index: int, z: Any, stage_input: Any) -> Any:
        """Apply block ``index`` to another representation."""
        streams, arguments = self._recorded.stage.streams, self._recorded.calls[index]
        made = call_itself(self.blocks[index], streams.fill_arguments(arguments, {streams.representation: z}))
        return streams.leaving(made)[streams.representation]


class _GoOn:
    """The part of the model that follows a stage, up to the next stage or to the end."""

    def __init__(self, recording: Recording, stage: int) -> None:
        self._recording, self._stage = recording, stage

    def __call__(self, z: Any) -> Any:
        return self._recording.go_on(self._stage, z)
