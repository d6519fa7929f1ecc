"""``adapt``: any residual model as stem, stages, transitions and head, driven through its own ``forward``.

The model's ``forward`` is run once on each batch with everything recorded: what enters each block, which further
arguments it gets, and what every module outside of the blocks returns. To go on from the end of a perturbed stage,
``forward`` is run again with recorded results in place of all modules that come before, the perturbed representation in
place of the stage, and the rest executed for real, up to the next stage or the end. So nothing needs to be known about
the model's class, and whatever happens between its modules happens as it always does.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.adapters.calls import Call, call, clone, forwards_replaced, representation, with_representation
from iterconv.adapters.finding import FoundStage, find_stages, named_stages, run
from iterconv.errors import InputError
from iterconv.stages import Stage, untouched, verify

Output = Callable[[Any, Any], Tensor]
"""From a model's output and its batch to logits (n, classes)."""


def logits(output: Any, inputs: Any) -> Tensor:
    """The tensor among a model's outputs that measuring looks at: itself, ``logits``, or the first one.

    Args:
        output: What the model returns.
        inputs: The batch that it was made of.

    Returns:
        A tensor of shape (n, classes).

    Raises:
        InputError: If there is no tensor.
    """
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, dict):
        found = output.get("logits")
    found = representation(output) if found is None else found
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model's output is a {type(output).__name__}; pass output=, a function that makes logits of it"
        )
    return found


def next_token(output: Any, inputs: Any) -> Tensor:
    """Logits of a causal language model for every token but the first of each sequence, padding left out.

    Args:
        output: What the model returns; logits of shape (n, length, vocabulary).
        inputs: The batch, a dictionary with ``input_ids`` and, where there is padding, ``attention_mask``.

    Returns:
        A tensor of shape (tokens, vocabulary), in the order of ``next_tokens``.
    """
    found = logits(output, inputs)[:, :-1]
    return found[_followed(inputs, found.device)]


def next_tokens(inputs: Any) -> Tensor:
    """The tokens that ``next_token`` predicts, of shape (tokens,)."""
    return inputs["input_ids"][:, 1:][_followed(inputs, inputs["input_ids"].device)]


def _followed(inputs: Any, device: torch.device) -> Tensor:
    """Which tokens but the last of each sequence are followed by another one that is no padding."""
    mask = inputs.get("attention_mask")
    known = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    return (known[:, 1:] * known[:, :-1]).bool().to(device)


def is_causal(model: nn.Module) -> bool:
    """Whether a model is a causal language model by the name that transformers gives such classes."""
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def adapt(model: Any, inputs: Any, *, stages: Any = None, output: Output | None = None) -> "AdaptedModel":
    """Make a model measurable: find its residual stages, and check that driving them gives its own output.

    Args:
        model: Any module; it is left as it is, and goes on to be usable by itself.
        inputs: A batch that it takes: a tensor, a tuple of arguments or a dictionary of keywords.
        stages: The runs of blocks, as ``["layer1.1:", "blocks"]`` or lists of modules; found by looking if left out.
        output: From the model's output and the batch to what is measured, logits of shape (n, classes);
            ``next_token`` for causal language models and ``logits`` for all others if left out.

    Returns:
        A model that satisfies the contract. ``print`` it to see its stages.

    Raises:
        InputError: If no stage is found, a named one is not there, changes shapes or is not executed in a row, blocks
            work in place, or the model rejects the batch.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__} is no torch.nn.Module; pass the model itself")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{type(model).__name__} is a script, which can't be driven; pass the model it was made of")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(f"{type(model).__name__} has weights on the meta device, without values; load them first")
    found = named_stages(model, stages) if stages is not None else find_stages(model, inputs)
    adapted = AdaptedModel(model, found, output or (next_token if is_causal(model) else logits))
    adapted.check(inputs)
    return adapted


class AdaptedModel(nn.Module):
    """A foreign model that satisfies the contract of ``iterconv.StagedModel``; made by ``adapt``.

    Args:
        model: The model.
        found: Its stages in the order of execution.
        output: From the model's output and the batch to logits.
    """

    stages: Any
    transitions: Any

    def __init__(self, model: nn.Module, found: list[FoundStage], output: Output) -> None:
        super().__init__()
        self.model = model
        self.found = found
        self._tape = _Tape(model, found, output)
        # Kept out of the module tree: the model's own modules are there once already.
        hidden = self.__dict__
        hidden["stages"] = [_DrivenStage(self._tape, number) for number in range(len(found))]
        hidden["stem"] = self._tape.record
        hidden["transitions"] = [_From(self._tape, number) for number in range(len(found) - 1)]
        hidden["head"] = _From(self._tape, len(found) - 1)

    def forward(self, inputs: Any) -> Tensor:
        """What the model itself makes of a batch."""
        return self.output_of(call(self.model, inputs), inputs)

    def output_of(self, output: Any, inputs: Any) -> Tensor:
        """The logits among what the model, or one made from it, returns."""
        found = self._tape.output(output, inputs)
        if not isinstance(found, Tensor):
            raise InputError(f"output= returned {type(found).__name__}, not a tensor of logits (n, classes)")
        return found

    @property
    def last_inputs(self) -> Any:
        """The batch that was evaluated last."""
        return self._tape.inputs

    def coupling_groups(self, first: int = 0) -> list[list[nn.Module]]:
        """The blocks of each stage from number ``first`` on, as groups for ``iterconv.couple``."""
        return [list(stage.blocks)[first:] for stage in self.found]

    @property
    def predicts_next_tokens(self) -> bool:
        """Whether its rows are tokens, and its targets the ones behind them."""
        return self._tape.output is next_token

    def rows(self, z: Tensor, count: int) -> Tensor:
        """A stage's output with one row for each of ``count`` rows of the model's output.

        Raises:
            InputError: If the rows are neither examples nor tokens.
        """
        if self.predicts_next_tokens:
            return z[:, :-1][_followed(self._tape.inputs, z.device)]
        if len(z) != count and z.ndim > 2 and z.shape[0] * z.shape[1] == count:
            return z.flatten(0, 1)
        if len(z) != count:
            raise InputError(
                f"output= makes {count} rows of a representation of shape {tuple(z.shape)}; make one a row or token"
            )
        return z

    def units(self) -> Tensor | None:
        """Which sequence each row of the last output belongs to; None where rows are examples."""
        if not self.predicts_next_tokens:
            return None
        followed = _followed(self._tape.inputs, torch.device("cpu"))
        return followed.nonzero()[:, 0]

    def extra_repr(self) -> str:
        """The stages, one a line."""
        return "\n".join(str(stage) for stage in self.found)

    def check(self, inputs: Any) -> None:
        """Check that blocks can be exchanged, and that driving them reproduces the model bit by bit.

        Args:
            inputs: A batch that the model takes.

        Raises:
            InputError: If not, with the reason.
        """
        run(self.model, inputs)  # for a message of its own where the model rejects the batch
        with untouched(self.model):
            self._tape.record(inputs, strict=True)
        verify(self, self, inputs)


class _DrivenStage(Stage):
    """A stage whose blocks are the model's own, called with the arguments that the model gives them."""

    def __init__(self, tape: "_Tape", number: int) -> None:
        super().__init__(tape.found[number].blocks)
        self._tape, self._number = tape, number

    def step(self, index: int, z: Any, stage_input: Any) -> Any:
        """Apply block ``index``."""
        recorded = self._tape.calls[self._number, index]
        return representation(recorded.made(self.blocks[index], z))


class _From:
    """What follows a stage, up to the next one or to the end."""

    def __init__(self, tape: "_Tape", stage: int) -> None:
        self._tape, self._stage = tape, stage

    def __call__(self, z: Any) -> Any:
        return self._tape.go_on(self._stage, z)


class _Reached(Exception):
    """The next stage begins with this representation."""

    def __init__(self, z: Any) -> None:
        super().__init__()
        self.z = z


class _Tape:
    """What one ordinary pass of a batch looks like from outside the blocks."""

    def __init__(self, model: nn.Module, found: list[FoundStage], output: Output) -> None:
        self.model, self.found, self.output = model, found, output
        self.places = [(number, index) for number, stage in enumerate(found) for index in range(len(stage.blocks))]
        self.inputs: Any = None
        self.calls: dict[tuple[int, int], Call] = {}
        self._results: dict[tuple[int, int], Any] = {}
        self._kept: dict[tuple[nn.Module, int], Any] = {}
        blocks = {block for stage in found for block in stage.blocks}
        inside = {module for block in blocks for module in block.modules()}
        around = {parent for parent in model.modules() if blocks & set(parent.modules())} - inside
        self._outside = [child for parent in around for child in parent.children() if child not in around | inside]
        self._blocks = list(blocks)

    def record(self, inputs: Any, strict: bool = False) -> Any:
        """Run a batch the ordinary way; returns what enters the first stage."""
        self.inputs, self.calls, self._results, self._kept = inputs, {}, {}, {}
        counts: Counter[nn.Module] = Counter()
        pointer, first, last = 0, None, None

        def outside(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def kept(*args: Any, **kwargs: Any) -> Any:
                result = forward(*args, **kwargs)
                self._kept[module, counts[module]] = clone(result)
                counts[module] += 1
                return result

            return kept

        def block(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any, **kwargs: Any) -> Any:
                nonlocal pointer, first, last
                found, rest = Call.split(args, kwargs)
                place = self._expect(pointer, module, found)
                z: Any = found
                if strict and place[1] > 0 and not _same(z, last):
                    raise InputError(
                        f"something happens between blocks {place[1] - 1} and {place[1]} of stage "
                        f"{self.found[place[0]].name!r}; name runs that hand on their representation unchanged"
                    )
                first = z if first is None else first
                version = z._version if not z.is_inference() else None
                rest = rest.without_cache()
                result = rest.made(forward, z)
                last = representation(result)
                self._check(place, z, last, version)
                self.calls[place], self._results[place] = rest, result
                pointer += 1
                return result

            return noted

        with self._replaced(outside, block):
            call(self.model, inputs)
        if pointer < len(self.places):
            stage, index = self.places[pointer]
            raise InputError(f"block {index} of stage {self.found[stage].name!r} is not executed; name other runs")
        return first

    def go_on(self, stage: int, z: Any) -> Any:
        """From the end of a stage to the beginning of the next, or to the output."""
        counts: Counter[nn.Module] = Counter()
        pointer = 0
        end = (stage, len(self.found[stage].blocks) - 1)

        def live() -> bool:
            return pointer > self.places.index(end)

        def outside(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def replayed(*args: Any, **kwargs: Any) -> Any:
                key = (module, counts[module])
                counts[module] += 1
                return forward(*args, **kwargs) if live() or key not in self._kept else clone(self._kept[key])

            return replayed

        def block(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def skipped(*args: Any, **kwargs: Any) -> Any:
                nonlocal pointer
                place = self.places[pointer]
                pointer += 1
                if place[0] == stage + 1:
                    raise _Reached(Call.split(args, kwargs)[0])
                result = self._results[place]
                return with_representation(result, z) if place == end else result

            return skipped

        with self._replaced(outside, block):
            try:
                return self.output(call(self.model, self.inputs), self.inputs)
            except _Reached as reached:
                return reached.z

    @contextmanager
    def _replaced(self, outside: Any, block: Any) -> Iterator[None]:
        replacements = {module: outside(module, module.forward) for module in self._outside}
        replacements |= {module: block(module, module.forward) for module in self._blocks}
        with forwards_replaced(replacements), _caches_off(self.model):
            yield

    def _expect(self, pointer: int, module: nn.Module, z: Any) -> tuple[int, int]:
        if pointer >= len(self.places):
            raise InputError(f"a {type(module).__name__} runs again after all stages; name other runs")
        stage, index = self.places[pointer]
        if self.found[stage].blocks[index] is not module:
            raise InputError(
                f"block {index} of stage {self.found[stage].name!r} is not executed in its turn; "
                "name the runs in the order of execution"
            )
        if not isinstance(z, Tensor):
            raise InputError(
                f"block {index} of stage {self.found[stage].name!r} gets no tensor; only tensors can be handed on"
            )
        return stage, index

    def _check(self, place: tuple[int, int], z: Tensor, result: Any, version: int | None) -> None:
        name = f"block {place[1]} of stage {self.found[place[0]].name!r}"
        if not isinstance(result, Tensor) or result.shape != z.shape:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise InputError(f"{name} makes {shape} of {tuple(z.shape)}; name runs that keep the shape")
        if version is not None and z._version != version:
            raise InputError(
                f"{name} ({type(self.found[place[0]].blocks[place[1]]).__name__}) changes its input in place, which "
                "would spoil the paths that share it; let the block work on a copy"
            )


def _same(a: Any, b: Any) -> bool:
    return a is b or (a.shape == b.shape and bool(torch.equal(a, b)))


@contextmanager
def _caches_off(model: nn.Module) -> Iterator[None]:
    """Switch off ``use_cache`` in the configurations of Hugging Face models."""
    configs: dict[int, Any] = {
        id(config): config
        for config in (getattr(module, "config", None) for module in model.modules())
        if getattr(config, "use_cache", False)
    }
    try:
        for config in configs.values():
            config.use_cache = False
        yield
    finally:
        for config in configs.values():
            config.use_cache = True
