"""The model contract: stem -> (stage -> transition)* -> head.

A *stage* is a run of blocks that share one representational format, so that any block can be dropped,
repeated or moved. Everything that perturbs a model does so through ``Stage.step``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.errors import InputError

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
        groups = [list(stage.blocks)[first:] for stage in self.stages]
        if first < 0 or any(len(group) < 2 for group in groups):
            raise InputError(
                f"first={first} leaves a stage with fewer than two blocks to couple; "
                f"stages have {[len(stage) for stage in self.stages]} blocks"
            )
        return groups


def require_staged(model: object) -> None:
    """Raise ``InputError`` unless ``model`` satisfies the contract.

    Args:
        model: Any object.

    Raises:
        InputError: If ``stem``, ``stages``, ``transitions`` or ``head`` is missing, or does not fit.
    """
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


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluate ``model`` inside without leaving a trace.

    Inside, the model is in evaluation mode and no gradients are recorded. Afterwards each module's mode,
    every buffer and the random state of torch are as they were, also when an error is raised.

    Args:
        model: Any module.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and not _same(buffer, buffers[name]):
                    buffer.copy_(buffers[name])


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
            f"{_name(model)} rejects the batch ({type(problem).__name__}: {text}); pass what it takes: a tensor, a "
            "tuple of arguments or a dictionary"
        ) from problem


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def verify(model: Any, reference: nn.Module, inputs: Any) -> None:
    """Check that a staged model, run block by block, reproduces the untouched reference.

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
            f"outputs differ by up to {_largest_difference(outcome.output, expected)}; check stem, transitions and head"
        )


def _name(model: Any) -> str:
    """Of a model's class, or of the foreign one that an adapter drives."""
    return type(getattr(model, "model", model)).__name__


def _largest_difference(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        return f"their shapes {tuple(a.shape)} and {tuple(b.shape)}"
    return f"{(a - b).abs().max().item():.3g}"
