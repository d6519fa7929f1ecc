"""Leaks: tensors that depend on a stage and bypass the one tensor that it hands on, found in one ordinary pass.

Equal bits on some perturbed paths do not prove that the beginnings of paths may be shared: they miss a skip connection
whose gate happens to be 0, and an argument that is computed from the running representation and happens to stay the
same. So the dependence itself is followed, operation by operation. The running representation of each stage is marked
where it enters the first block, each torch function marks the tensors that it makes of marked ones, and the mark is
taken off the one tensor that leaves the last block. A tensor that is used afterwards and still bears a mark is a leak.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from iterconv.adapters.calls import Arguments, Handler, answer_calls, call, call_itself, switch_off_caches
from iterconv.adapters.drive import Driven
from iterconv.tasks.base import Output
from iterconv.tasks.nested import tensors_in

PAST_THE_END = "more than the one tensor that is handed on depends on its blocks"
ARGUMENTS = "arguments of its blocks are computed from what the blocks before have made"
VALUES = "what the model does depends on values that its blocks have made"


def find_leaks(model: nn.Module, driven: list[Driven], output: Output, inputs: Any) -> list[str]:
    """Follow the representation of each stage through an ordinary pass.

    Args:
        model: The model, in evaluation mode.
        driven: The stages of the model.
        output: A function of the model's output and the batch that returns the logits that are measured.
        inputs: The batch.

    Returns:
        The reason, for each stage, why the beginnings of its paths can't be shared; empty if there is no leak.
    """
    marks = _Marks(len(driven))
    handlers: dict[nn.Module, Handler] = {}
    for number, stage in enumerate(driven):
        follower = _Follower(marks, number, stage)
        handlers |= dict.fromkeys(stage.found.blocks, follower)
    with answer_calls(handlers), switch_off_caches(model), marks:
        measured = output(call(model, inputs), inputs)
    for number in marks.of(measured):
        marks.reasons[number] = marks.reasons[number] or PAST_THE_END
    return marks.reasons


class _Marks(TorchFunctionMode):
    """The marks of tensors: the numbers of the stages from whose running representation each was computed."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.reasons = [""] * stages
        self.ended: set[int] = set()
        self.inside = False
        """True while a block is executed, which may use its own input freely."""
        # Weak, so that following a pass keeps none of its activations.
        self._marks: Any = WeakTensorKeyDictionary()

    def of(self, value: Any) -> set[int]:
        """Return the marks of all tensors in a nested structure."""
        tensors = tensors_in(value).values()
        return set().union(*(self._marks.get(tensor, ()) for tensor in tensors))

    def put(self, value: Any, stages: set[int]) -> None:
        """Mark all tensors in a nested structure."""
        for tensor in tensors_in(value).values():
            self._marks[tensor] = {*self._marks.get(tensor, ()), *stages}

    def take(self, tensor: Tensor, stage: int) -> None:
        """Take the mark of a stage off a tensor."""
        self._marks[tensor] = {*self._marks.get(tensor, ())} - {stage}

    def tell(self, stages: set[int], reason: str) -> None:
        """Note the first reason of each stage."""
        for stage in stages:
            self.reasons[stage] = self.reasons[stage] or reason

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a torch function, and mark the tensors that it makes of marked ones."""
        made = func(*args, **(kwargs or {}))
        used = self.of((args, kwargs or {}))
        if not used:
            return made
        if tensors_in(made):
            self.put(made, used)
        elif func is Tensor.__setitem__:  # it returns nothing, and changes its first argument
            self.put(args[0], used)
        if not self.inside:
            # A mark is taken off where its stage ends, so a marked tensor that is used later has bypassed the end.
            if tensors_in(made) or func is Tensor.__setitem__:
                self.tell(used & self.ended, PAST_THE_END)
            elif func in _READ_VALUES:
                self.tell(used, VALUES)
        return made


_READ_VALUES = {
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    torch.equal,
    torch.allclose,
    torch.is_nonzero,
}
"""Functions that turn tensors into plain values, on which the model may then decide."""


class _Follower:
    """A handler that answers the calls of a stage's blocks and checks the marks of their arguments."""

    def __init__(self, marks: _Marks, number: int, stage: Driven) -> None:
        self._marks, self._number, self._stage, self._calls = marks, number, stage, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        streams, own = self._stage.streams, Arguments(args, kwargs).without_cache()
        entering = streams.entering(own)[streams.representation]
        if self._calls == 0:
            entering = entering.clone()  # only the copy is marked: other uses of the original depend on no block
            own = streams.fill_arguments(own, {streams.representation: entering})
            self._marks.put(entering, {self._number})
        places = next(into for out, into in streams.places if out == streams.representation)
        further = {place: tensor for place, tensor in own.tensors().items() if place not in places}
        self._marks.tell(self._marks.of(list(further.values())) & {self._number}, ARGUMENTS)
        self._calls += 1
        # Blocks may hold the blocks of another stage, so the outer state is put back.
        outer, self._marks.inside = self._marks.inside, True
        try:
            result = call_itself(module, own)
        finally:
            self._marks.inside = outer
        leaving = streams.leaving(result)[streams.representation]
        if self._calls < len(self._stage.found.blocks):
            self._marks.put(leaving, {self._number})  # also if it was made by a function that torch does not report
            return result
        fresh = leaving.clone()
        self._marks.take(fresh, self._number)
        self._marks.ended.add(self._number)
        return streams.fill_result(result, {streams.representation: fresh})
