"""``adapt``: any residual model as stages, driven through its own ``forward``.

Every stage can be measured by whole passes of the model in which its blocks execute a path (``drive.py``). A faster way
computes the beginnings that paths share only once (``recording.py``). It is used for the stages for which ``adapt``
proves that it gives the same bits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.adapters.calls import Arguments, answer_calls, call, call_itself, name_arguments, switch_off_caches
from iterconv.adapters.drive import Driven
from iterconv.adapters.find import FoundStage, find_stages, measure_identity_shares, run
from iterconv.adapters.leaks import find_leaks
from iterconv.adapters.named import find_named_stages
from iterconv.adapters.prove import (
    AdaptedStage,
    are_nested,
    find_difference,
    joint_routes,
    middle_routes,
    probing_routes,
    recheck_sharing,
    trunk_holds,
    trunk_routes,
)
from iterconv.adapters.recording import Recording, find_outside
from iterconv.adapters.streams import BlockCall
from iterconv.errors import InputError, describe_error
from iterconv.paths.contract import coupling_groups
from iterconv.paths.evaluate import verify
from iterconv.paths.untouched import rejections_in_a_line, untouched
from iterconv.tasks import Task, Tokens
from iterconv.tasks.base import Output, logits
from iterconv.tasks.nested import tensors_in
from iterconv.tasks.tokens import is_causal, next_token


def adapt(
    model: nn.Module, inputs: Any, *, stages: Any = None, output: Output | None = None, task: Task | None = None
) -> "AdaptedModel":
    """Make a model measurable: find its residual stages, and prove on a batch how their paths can be run.

    Args:
        model: Any module; it is left as it is and remains usable by itself.
        inputs: A batch that the model takes: a tensor, a tuple of arguments or a dictionary of keywords.
        stages: The runs of blocks, as ``["layer1.1:", "blocks"]`` or lists of modules; they are searched if left out.
        output: A function of the model's output and the batch that returns the logits that are measured, of
            shape (rows, classes); the task's own function by default.
        task: The meaning of the model's outputs, as ``iterconv.tasks.Pixels()``; by default next tokens for causal
            language models, and for all others classes or label sets, which the targets distinguish later.

    Returns:
        A model that ``measure``, ``plan``, ``similarity`` and ``audit`` take. ``print`` it to see its stages and how
        each of them is run: ``whole model`` if each path takes a forward pass of the whole model, and ``shared`` if the
        beginnings of paths are computed once, which is proven to give the same bits.

    Raises:
        InputError: If no stage is found or can be run, if a named stage does not exist, changes shapes or is not
            executed in a row, if the model rejects the batch, or if its passes are not reproducible.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__} is not a torch.nn.Module; pass the model itself")
    if isinstance(model, AdaptedModel):
        raise InputError("the model is adapted already; pass the model that it was made of, as adapted.model")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{type(model).__name__} is a script, which can't be driven; pass the model it was made of")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(f"{type(model).__name__} has weights on the meta device, without values; load them first")
    model = getattr(model, "_orig_mod", model)  # torch.compile keeps the module that it was given there
    made = run(model, inputs)  # before the search, so that a rejected batch gets a message of its own
    if any(bool(tensor.isnan().any()) for tensor in tensors_in(made).values()):
        raise InputError(f"{type(model).__name__} makes NaN of this batch; look for NaN in the batch and the weights")
    found = find_named_stages(model, stages) if stages is not None else find_stages(model, inputs)
    # A causal language model needs no targets: its next tokens are in the inputs.
    if task is None and (output is next_token or (output is None and is_causal(model))):
        task = Tokens()
    output = output or (logits if task is None else task.outputs)
    return AdaptedModel(model, found, output, inputs, task, lenient=stages is None)


class AdaptedModel(nn.Module):
    """A foreign model that can be bound to a batch and then satisfies the contract; ``adapt`` makes it.

    The only batch that it remembers is ``probe``, the one on which it was adapted.

    Args:
        model: The model.
        found: The stages of the model.
        output: A function of the model's output and the batch that returns the logits that are measured.
        probe: A batch that the model takes.
        task: The meaning of these logits; None if the targets are to tell.
        lenient: True if stages that can't be run are left out, with the reason in ``refused``; else they are an error.

    Raises:
        InputError: If no stage can be run, or the model's passes are not reproducible.
    """

    stages: Any

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[FoundStage],
        output: Output,
        probe: Any,
        task: Task | None = None,
        lenient: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.output, self.probe, self.task = model, output, probe, task
        self._outside: list[nn.Module] | None = None
        self._trunk = False
        """True if passes of the whole model are proven to need nothing before their first perturbed block."""
        self.refused: dict[str, str] = {}
        """The reasons why some stages that were found can't be run, by the names of the stages."""
        with untouched(model), rejections_in_a_line(model):
            # Kept out of the module tree: the model's own modules are there once already.
            self.__dict__["stages"] = self._prepare_stages(found, lenient)
        # All proofs compare bits, so the first one is that two ordinary passes are equal.
        verify(self, self, probe)
        with untouched(model), rejections_in_a_line(model):
            self._prove(lenient)

    def forward(self, inputs: Any) -> Tensor:
        """Run the model itself, with caches off, and return the logits that are measured."""
        with switch_off_caches(self.model):
            return self.output_of(call(self.model, inputs), inputs)

    def output_of(self, made: Any, inputs: Any) -> Tensor:
        """Extract the logits that are measured from the output of the model, or of a smaller one made from it."""
        # Tasks look into a batch by names, whereas a function of the user's gets the batch as the user knows it.
        found = self.output(made, inputs if self.task is None else self.named(inputs))
        if not isinstance(found, Tensor):
            raise InputError(f"output= returned {type(found).__name__}, not a tensor of logits (n, classes)")
        return found

    def bind(self, inputs: Any) -> Recording:
        """Bind the model to one batch, so that it satisfies the contract of ``iterconv.StagedModel``.

        The proof on the probe is repeated in part on this batch: with the first block of every shared stage left out,
        a whole pass has to give the same bits. Stages that fail are run by whole passes from then on.

        Args:
            inputs: The batch.

        Returns:
            An object that ``iterconv.paths.evaluate`` runs; it is valid for this batch only.

        Raises:
            InputError: If the model can't be run on this batch as it was on the probe.
        """
        shared = [stage.shared for stage in self.stages]
        bound = self._bound(inputs, shared, self._trunk)
        # A model may take another way on another batch, as one that depends on its length or its values does.
        reasons = recheck_sharing(bound, [number for number, share in enumerate(shared) if share])
        for number, reason in reasons.items():
            self.stages[number].whole = f"{reason} (on a later batch)"
        holds = self._trunk and not reasons and trunk_holds(bound, middle_routes(self.stages))
        if not reasons and holds == self._trunk:
            return bound
        self._trunk = False  # a stage that is new among those run by whole passes was not tried on the probe
        bound.start.restore()  # the state in which the model was given, from which the new record has to start, too
        return self._bound(inputs, [stage.shared for stage in self.stages])

    def _bound(self, inputs: Any, shared: list[bool], trunk: bool = False) -> Recording:
        if self._outside is None:
            self._outside = find_outside(self.model, {block for stage in self.stages for block in stage.blocks})
        driven = [stage.driven for stage in self.stages]
        return Recording(self.model, driven, shared, self._outside, self.output_of, inputs, trunk)

    @property
    def found(self) -> list[FoundStage]:
        """The stages, reduced to their names and blocks."""
        return [stage.found for stage in self.stages]

    def coupling_groups(self, first: int = 0) -> list[list[nn.Module]]:
        """Group the blocks of each stage from number ``first`` on, for ``iterconv.couple``.

        Args:
            first: The first coupled block of each stage, from 0.

        Returns:
            One list of different blocks for each stage.

        Raises:
            InputError: If fewer than two different blocks of a stage would be coupled.
        """
        return coupling_groups(self.stages, first)

    def named(self, inputs: Any) -> Any:
        """Key the batch by the names of the model's arguments if tokens or a mask are among them; else return it."""
        named = name_arguments(self.model, inputs)
        return named if isinstance(named, Mapping) and {"input_ids", "attention_mask"} & set(named) else inputs

    def __repr__(self) -> str:
        """Show one stage a line, with the way in which it is run, and then the stages that can't be run."""
        lines = [f"{type(self.model).__name__}, {len(self.stages)} stage(s):"]
        lines += [f"  {stage}" for stage in self.stages]
        return "\n".join([*lines, *(f"  {name}: left out, as {reason}" for name, reason in self.refused.items())])

    def _prepare_stages(self, found: Sequence[FoundStage], lenient: bool) -> list[AdaptedStage]:
        """Return the stages that can be driven, in the order in which they begin."""
        calls, order = self._record_calls(found)
        stages: list[AdaptedStage] = []
        for candidate in found:
            try:
                driven = Driven.of(candidate, calls[candidate])
            except InputError as problem:
                self._refuse(candidate, problem, lenient)
                continue
            entering = driven.streams.entering(calls[candidate][0].arguments)[driven.streams.representation]
            stages.append(AdaptedStage(candidate, tuple(entering.shape), driven))
        if any(math.isnan(stage.found.identity_share) for stage in stages):  # stages that a user names come without
            streams: dict[FoundStage, Any] = {stage.found: stage.driven.streams for stage in stages}
            shares = measure_identity_shares(self.model, self.probe, streams)
            for stage in stages:
                stage.found = replace(stage.found, identity_share=shares[stage.found])
        return sorted(stages, key=lambda stage: order.index(stage.blocks[0]))

    def _refuse(self, stage: FoundStage, problem: InputError, lenient: bool) -> None:
        if not lenient:
            raise problem
        self.refused[stage.name] = str(problem)

    def _record_calls(self, found: Sequence[FoundStage]) -> tuple[dict[FoundStage, list[BlockCall]], list[nn.Module]]:
        """Run an ordinary pass; return the calls of each stage's blocks, and all called blocks in their order."""
        owners = {block: stage for stage in found for block in stage.blocks}
        calls: dict[FoundStage, list[BlockCall]] = {stage: [] for stage in found}
        order: list[nn.Module] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # Noted before the call, since a block may hold the blocks of another stage.
            order.append(module)
            arguments = Arguments(args, kwargs).without_cache()
            result = call_itself(module, arguments)
            calls[owners[module]].append(BlockCall(module, arguments, result))
            return result

        with answer_calls(dict.fromkeys(owners, note)), switch_off_caches(self.model):
            call(self.model, self.probe)
        return calls, order

    def _prove(self, lenient: bool) -> None:
        """Determine for each stage which way of running its paths is right.

        The general way only has to run: a stage is refused if a pass of the whole model fails with one of its blocks
        dropped or repeated. The shared way has to give the same bits on all these paths, and the model may not use any
        tensor that depends on the stage, except for the one that the stage hands on.
        """
        sharing = self._bound(self.probe, [True] * len(self.stages))
        apart = "" if sharing.is_sequential else "its blocks take turns with those of another stage"
        # Leaks are followed in the ordinary pass, since equal bits on some paths would not exclude them.
        leaks = find_leaks(self.model, [stage.driven for stage in self.stages], self.output_of, self.probe)
        kept = []
        for number, (stage, leak) in enumerate(zip(self.stages, leaks, strict=True)):
            try:
                # Without one of its blocks a model may fail in any way, which means only that this run is no stage.
                expected = {route: sharing.whole(route) for route in probing_routes(self.stages, number)}
            except InputError as problem:
                self._refuse(stage.found, problem, lenient)
            except Exception as problem:  # noqa: BLE001 - whatever a foreign model raises without one of its blocks
                reason = f"the model fails when its blocks are dropped or repeated ({describe_error(problem)})"
                refusal = InputError(f"stage {stage.name!r} can't be measured: {reason}; name other runs")
                self._refuse(stage.found, refusal, lenient)
            else:
                stage.whole = apart or leak or find_difference(sharing, expected)
                kept.append(stage)
        if not kept:
            raise InputError("; ".join(self.refused.values()))
        if len(kept) < len(self.stages):  # the blocks of the others become ordinary modules, so all proofs start anew
            self.__dict__["stages"] = kept
            self._outside = None
            return self._prove(lenient)
        several = [number for number, stage in enumerate(self.stages) if stage.shared]
        if len(several) > 1:
            routes = joint_routes(self.stages, several)
            if reason := find_difference(sharing, {route: sharing.whole(route) for route in routes}):
                for number in several:
                    self.stages[number].whole = f"{reason}, when several stages are perturbed at once"
        self._trunk = not are_nested(self.stages) and trunk_holds(sharing, trunk_routes(self.stages))
        return None
