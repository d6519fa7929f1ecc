"""Iteration: a span of a stage's blocks, applied again and again far beyond the ordinary pass."""

from collections.abc import Callable, Collection
from typing import Any, cast

from torch import Tensor

from iterconv.errors import OptionError
from iterconv.paths.contract import Bound
from iterconv.paths.damping import damp
from iterconv.paths.evaluate import State, advance, bind, full_route, next_state, steps_of
from iterconv.paths.families import Path, Route

OnState = Callable[[int, Any], None]
"""A function of a step and the representation after it."""


class Iteration:
    """A model on one batch, whose ordinary pass has been run, and of which one span of blocks is to go on.

    Step 0 is the ordinary pass, in which the span has been executed once, and step k applies the span k more times.
    The representation then goes through the rest of the stage, the later stages and the head.

    Choice: what follows the span in its stage is part of the read-out, as the later stages are, so that step 0 is the
    ordinary pass bit for bit, and step k is the path ``(0..end-1, (start..end-1) * k, end..T-1)``. Only the further
    applications are damped, each as a whole: z + damping (S(z) - z) with S for all blocks of the span.

    Args:
        model: A model that satisfies the contract, or can be bound to a batch and then does; in evaluation mode.
        inputs: A batch that it takes.
        stage: The number of the stage, from 0.
        span: The first block of the span, from 0, and the one behind its last.
        damping: The part of each further step that is taken.

    Raises:
        InputError: If steps are to be damped, but the span can't be applied by itself.
    """

    def __init__(self, model: Any, inputs: Any, stage: int, span: tuple[int, int], damping: float = 1.0) -> None:
        self._bound = bind(model, inputs)
        self._stage, self._span, self._damping = stage, span, damping
        if damping != 1 and not self.shared:
            problem = (
                "needs blocks that can be run by themselves, and this stage takes whole passes of the model; use 1"
            )
            raise OptionError("damping", damping, problem)
        self._full = full_route(self._bound.stages)
        ordinary = steps_of(self._full, self._bound.stages)
        known = self._bound.along() if isinstance(self._bound, Bound) else [self._bound.stem(inputs)]
        state = State(known[0], None, ())
        for depth, step in enumerate(ordinary):
            z = known[depth] if depth < len(known) else advance(self._bound, state, step)
            state = next_state(state, step, len(self._bound.stages), z)
            if step == (stage, span[0] - 1):
                self.before: Any = z
            if step == (stage, span[1] - 1):
                self._first, self._rest = state, ordinary[depth + 1 :]
        self.output: Any = state.z
        """The output of the ordinary pass."""
        if isinstance(self._bound, Bound):
            # In a foreign model, something may happen between two blocks.
            self.before = self._bound.entered(stage, span[0])

    @property
    def first(self) -> Any:
        """The representation after the span in the ordinary pass, which is that of step 0."""
        return self._first.z

    @property
    def stage_input(self) -> Any:
        """The representation that entered the stage."""
        return self._first.stage_input

    @property
    def shared(self) -> bool:
        """True if the span can be applied by itself; else every path takes a pass of the whole model."""
        return bool(getattr(self._bound.stages[self._stage], "shared", True))

    def apply(self, z: Any) -> Any:
        """Apply the span once, damped; it has to be ``shared``."""
        state = State(z, self._first.stage_input, ())
        for block in range(*self._span):
            state = State(advance(self._bound, state, (self._stage, block)), state.stage_input, ())
        return damp(z, state.z, self._damping)

    def apply_to_stage_input(self) -> Any:
        """Apply the span to what entered the stage."""
        if self.shared:
            return self.apply(self.stage_input)
        return self._whole(tuple(range(*self._span))).stage_outputs[self._stage]

    def run(self, steps: int, read_outs: Collection[int], on_state: OnState, on_output: OnState) -> None:
        """Apply the span again and again.

        Args:
            steps: The number of applications beyond the ordinary pass.
            read_outs: The steps that are read out, with 0 for the ordinary pass.
            on_state: Called with each step from 0 on and the representation after it.
            on_output: Called with each step that is read out and the output of the model.
        """
        if not self.shared:
            self._run_whole(steps, read_outs, on_state, on_output)
            return
        z = self.first
        for step in range(steps + 1):
            z = self.apply(z) if step else z
            on_state(step, z)
            if step in read_outs:
                on_output(step, self._read_out(z) if step else self.output)

    def _read_out(self, z: Any) -> Any:
        state = State(z, self._first.stage_input, self._first.stage_outputs)
        for step in self._rest:
            state = next_state(state, step, len(self._full), advance(self._bound, state, step))
        return state.z

    def _run_whole(self, steps: int, read_outs: Collection[int], on_state: OnState, on_output: OnState) -> None:
        """Run each read-out by a pass of the whole model, and all states by one further pass."""
        start, end = self._span
        full = self._full[self._stage]
        for step in sorted(read_outs):
            path = full[:end] + full[start:end] * step + full[end:]
            on_output(step, self._whole(path).output if step else self.output)
        applied = 0

        def watch(z: Tensor) -> None:
            nonlocal applied
            applied += 1
            if applied >= end and (applied - end) % (end - start) == 0:
                # A copy, since the next block may change it in place.
                on_state((applied - end) // (end - start), z.clone())

        self._whole(full[:end] + full[start:end] * steps, watch)

    def _whole(self, path: Path, watch: Callable[[Tensor], None] | None = None) -> Any:
        route: Route = (*self._full[: self._stage], path, *self._full[self._stage + 1 :])
        # Only stages of foreign models are run by passes of the whole model.
        return cast(Bound, self._bound).whole(route, None if watch is None else (self._stage, watch))
