"""The model contract: stem -> (stage -> transition)* -> head.

A *stage* is a run of blocks that share one representational format, so that any block can be dropped,
repeated or moved. Everything that perturbs a model does so through ``Stage.step``, or, for models of others, through
what ``model.bind(inputs)`` returns: the model bound to one batch.
"""

import copy
import random
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iterconv.errors import InputError, check_number

CONTRACT = ("stem", "stages", "transitions", "head")
"""What a staged model has."""

Path = tuple[int, ...]
"""The 0-based numbers of the blocks that a stage executes, in order."""


class Stage(nn.Module):
    """A run of blocks that share one representational format.

    Subclasses override ``step`` where a block needs more than its running representation.

    Args:
        blocks: The blocks, in the order of the ordinary pass.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def full_path(self) -> Path:
        """The ordinary pass: every block once, in order."""
        return tuple(range(len(self)))

    def step(self, index: int, z: Any, stage_input: Any) -> Any:
        """Apply block ``index`` to the representation ``z``; ``stage_input`` is what entered the stage."""
        return self.blocks[index](z)

    def forward(self, x: Any) -> Any:
        """The ordinary pass."""
        z = x
        for index in self.full_path:
            z = self.step(index, z, x)
        return z


class StagedModel(nn.Module):
    """A model that satisfies the contract ``stem -> (stage -> transition)* -> head``.

    Args:
        stem: From the model's input to the first stage's input.
        stages: The stages, in order.
        transitions: One fewer than stages; the one at position s leads from stage s to stage s + 1.
        head: From the last stage's output to the model's output.

    Raises:
        InputError: If the number of transitions does not fit the number of stages.
    """

    # nn.ModuleList would lose the type of its members.
    stages: Any
    transitions: Any

    def __init__(
        self, stem: nn.Module, stages: Sequence[Stage], transitions: Sequence[nn.Module], head: nn.Module
    ) -> None:
        super().__init__()
        if not stages or len(transitions) != len(stages) - 1:
            raise InputError(
                f"{len(stages)} stages need {max(len(stages) - 1, 0)} transitions between them, "
                f"not {len(transitions)}; pass at least one stage and one transition fewer than stages"
            )
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.transitions = nn.ModuleList(transitions)
        self.head = head

    def forward(self, inputs: Any) -> Any:
        """The ordinary pass."""
        z = self.stem(inputs)
        for index, stage in enumerate(self.stages):
            z = stage(z if index == 0 else self.transitions[index - 1](z))
        return self.head(z)

    def coupling_groups(self, first: int = 0) -> list[list[nn.Module]]:
        """The blocks of each stage from number ``first`` on, as groups for ``iterconv.couple``.

        Source: Lippl et al., Sec. 4.1; ``first=5`` is the late coupling of Sec. D.3.

        Args:
            first: The first coupled block of each stage, from 0.

        Returns:
            One list of blocks a stage.

        Raises:
            InputError: If fewer than two blocks of a stage would be coupled.
        """
        return coupling_groups(self.stages, first)


def coupling_groups(stages: Iterable[Any], first: int = 0) -> list[list[nn.Module]]:
    """The different blocks of each stage from number ``first`` on.

    Args:
        stages: Whatever has ``blocks``.
        first: The first coupled block of each stage, from 0.

    Returns:
        One list of blocks a stage.

    Raises:
        InputError: If fewer than two different blocks of a stage would be coupled.
    """
    check_number("first", first, whole=True)
    counts = [len(stage.blocks) for stage in stages]
    groups = [list(dict.fromkeys(list(stage.blocks)[max(first, 0) :])) for stage in stages]
    if first < 0 or any(len(group) < 2 for group in groups):
        raise InputError(
            f"first={first} leaves a stage with fewer than two blocks to couple; stages have {counts} blocks, of which "
            "blocks that are one and the same module count once"
        )
    return groups


def is_staged(model: object) -> bool:
    """Whether a model satisfies the contract, or can be bound to a batch and then does."""
    return hasattr(model, "bind") or all(hasattr(model, name) for name in CONTRACT)


def require_staged(model: object) -> None:
    """Raise ``InputError`` unless ``model`` satisfies the contract, or can be bound to a batch and then does.

    Args:
        model: Any object.

    Raises:
        InputError: If ``stem``, ``stages``, ``transitions`` or ``head`` is missing, or does not fit.
    """
    if hasattr(model, "bind"):
        return
    missing = [name for name in CONTRACT if not hasattr(model, name)]
    if missing:
        raise InputError(
            f"{type(model).__name__} has no {', '.join(missing)}; "
            "wrap it as iterconv.StagedModel(stem, stages, transitions, head), or use iterconv.adapt"
        )
    stages: Any = model.stages  # type: ignore[attr-defined]
    if not stages or len(model.transitions) != len(stages) - 1:  # type: ignore[attr-defined]
        raise InputError(
            f"{type(model).__name__} has {len(stages)} stages; it needs one and a transition between each two"
        )
    for number, stage in enumerate(stages):
        if not hasattr(stage, "step") or not len(getattr(stage, "blocks", ())):
            raise InputError(
                f"stage {number} of {type(model).__name__} needs `blocks` and `step(index, z, stage_input)`"
            )


class Snapshot:
    """What evaluating a model may change: buffers, plain attributes of its modules (modes among them), random states.

    Attributes that are tensors, lists, dictionaries or sets are restored with what was in them; whatever else changes
    within itself, such as an object of the user's, is not seen.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        owners = [owner for module in model.modules() for owner in (module._buffers, module.__dict__)]
        # Scripted modules keep theirs within torch.
        self._owners = [(owner, len(owner), *_contents(owner)) for owner in owners if isinstance(owner, dict)]
        kinds = {parameter.device.type for parameter in model.parameters()} - {"cpu", "meta"}
        self._accelerators = [torch.get_device_module(kind) for kind in sorted(kinds)]
        self._random = self._random_states()

    def _random_states(self) -> tuple[Any, ...]:
        accelerators = [module.get_rng_state() for module in self._accelerators if hasattr(module, "get_rng_state")]
        return torch.get_rng_state(), random.getstate(), np.random.get_state(), accelerators

    def restore(self) -> None:
        """Put everything back as it was when the snapshot was taken."""
        with torch.no_grad():
            for owner, count, plain, changeable in self._owners:
                for name, value, kept in changeable:
                    _refill(value, kept)
                    owner[name] = value
                for name, value in plain:
                    if owner.get(name, self) is not value:
                        owner[name] = value
                if len(owner) != count:
                    known = {name for name, *_ in (*plain, *changeable)} | _MACHINERY
                    for name in set(owner) - known:
                        del owner[name]
        torch.set_rng_state(self._random[0])
        random.setstate(self._random[1])
        np.random.set_state(self._random[2])
        for module, state in zip(self._accelerators, self._random[3], strict=False):
            module.set_rng_state(state)


HANDLER = "_iterconv_handler"
"""The attribute of a module whose calls somebody else answers for a moment."""
_MACHINERY = (set(nn.Module().__dict__) - {"training"}) | {HANDLER}
"""Attributes that torch's modules have for torch's own purposes."""


def _contents(owner: dict[str, Any]) -> tuple[list[tuple[str, Any]], list[tuple[str, Any, Any]]]:
    """Attributes that can only be replaced, and attributes that can change within themselves, with what is in them."""
    named = [(name, value) for name, value in owner.items() if name not in _MACHINERY]
    plain = [(name, value) for name, value in named if not isinstance(value, _CHANGEABLE)]
    return plain, [(name, value, _kept(value)) for name, value in named if isinstance(value, _CHANGEABLE)]


_CHANGEABLE = (Tensor, list, dict, set, deque)


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return None if value.is_meta else value.detach().clone()
    return copy.copy(value)


def _refill(value: Any, kept: Any) -> None:
    """Give an attribute's tensor or container the contents that it had."""
    if isinstance(value, Tensor) and kept is not None and not _same(value, kept):
        value.data = kept.clone()
    elif isinstance(value, dict) and not _alike([*value, *value.values()], [*kept, *kept.values()]):
        value.clear()
        value.update(kept)
    elif isinstance(value, (list, deque)) and not _alike(value, kept):
        value.clear()
        value.extend(kept)
    elif isinstance(value, set) and value != kept:
        value.clear()
        value.update(kept)


def _alike(some: Collection[Any], others: Collection[Any]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _compiled_off() -> Any:
    """Let compiled modules run as they were written, if there can be any: importing the compiler takes seconds."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluate ``model`` inside without leaving a trace.

    Inside, the model is in evaluation mode, no gradients are recorded, compiled modules run as they were written, and
    transformer layers of torch run module by module. Afterwards each module's mode, buffers and plain attributes and
    the random states of torch, NumPy and Python are as they were, also when an error is raised.

    Args:
        model: Any module.
    """
    snapshot = Snapshot(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)  # it would bypass the layers' own modules
        with _compiled_off(), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        snapshot.restore()


@contextmanager
def rejections_in_a_line(model: Any) -> Iterator[None]:
    """Turn whatever a model raises inside, for a batch that it can't take, into one ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        text = " ".join(str(problem).split())[:200]
        if isinstance(problem, MemoryError) or "memory" in text:
            raise
        raise InputError(
            f"{_name(model)} rejects the batch ({type(problem).__name__}: {text}); check that model(batch) runs by "
            "itself, and pass what it takes: a tensor, a tuple of arguments or a dictionary"
        ) from problem


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def verify(model: Any, reference: nn.Module, inputs: Any) -> None:
    """Check that the ordinary pass of a staged model, run block by block, reproduces the untouched reference.

    Args:
        model: A model that satisfies the contract.
        reference: The model that it stands for (for the package's own networks, the network itself).
        inputs: A batch that the reference accepts.

    Raises:
        InputError: If the contract is not met or the outputs differ in a single bit.
    """
    from iterconv.paths import evaluate, full_route

    require_staged(model)
    with untouched(reference):
        expected = reference(inputs)
    if bool(expected.isnan().any()):
        raise InputError(f"{_name(reference)} makes NaN of this batch; look for NaN in the batch and the weights")
    with untouched(model):
        [(_, outcome)] = evaluate(model, [full_route(model.stages)], inputs)
    if outcome.output.shape != expected.shape or not torch.equal(outcome.output, expected):
        raise InputError(
            f"run block by block, {_name(model)} does not reproduce {_name(reference)}: "
            f"outputs differ by up to {_largest_difference(outcome.output, expected)}; {_remedy(model)}"
        )


def _name(model: Any) -> str:
    """Of a model's class, or of the foreign one that an adapter drives."""
    return type(getattr(model, "model", model)).__name__


def _remedy(model: Any) -> str:
    if hasattr(model, "bind"):
        return "two passes of such a model have to be equal, so remove what makes them differ, such as a state it keeps"
    return "check stem, transitions and head"


def _largest_difference(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        return f"their shapes {tuple(a.shape)} and {tuple(b.shape)}"
    return f"{(a - b).abs().max().item():.3g}"
