"""The model contract: stem -> (stage -> transition)* -> head.

A *stage* is a run of blocks that share one representational format, so that any block can be dropped, repeated or
moved. Every perturbation of a model goes through ``Stage.step``. `Staged` is the contract as a type, and `StagedModel`
a module that satisfies it. Foreign models satisfy the contract for one batch at a time: they are `Bindable`, and
``model.bind(inputs)`` returns the model bound to that batch, which is `Bound`.

Stages and blocks are numbered from 0 in paths, tables and arguments, and from 1 in messages, printed tables and
figures.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from iterconv.errors import InputError, check_number
from iterconv.paths.families import Path

CONTRACT = ("stem", "stages", "transitions", "head")
"""The attributes of a staged model."""


class Staged(Protocol):
    """The contract: anything with these four attributes can be measured, whether it is a `StagedModel` or not.

    ``isinstance`` can't tell: from Python 3.12 on, it does not see a module's submodules. ``is_staged`` does.
    """

    @property
    def stem(self) -> Any:
        """Called with the model's input; returns the representation that enters the first stage."""

    @property
    def stages(self) -> Any:
        """A sequence of objects with ``blocks`` and ``step(index, z, stage_input)``."""

    @property
    def transitions(self) -> Any:
        """A sequence of callables, one fewer than stages; number s leads from stage s to stage s + 1."""

    @property
    def head(self) -> Any:
        """Called with the last representation; returns the model's output."""


@runtime_checkable
class Bound(Staged, Protocol):
    """A foreign model that is bound to one batch, on which it has run its ordinary pass."""

    def along(self) -> list[Any]:
        """List the ordinary pass: the input of each stage, the result of each block, and the output last."""

    def entered(self, stage: int, block: int) -> Tensor:
        """Return the representation that entered a block in the ordinary pass."""

    def alone(self, route: Any) -> Any:
        """Run a route by itself, as ``whole`` does or faster; returns its `iterconv.paths.Outcome`."""

    def whole(self, route: Any, watch: Any = None) -> Any:
        """Run a route by one forward pass of the whole model; returns its `iterconv.paths.Outcome`.

        ``watch`` is a stage and a function that gets the representation after each of its blocks.
        """


@runtime_checkable
class Bindable(Protocol):
    """A foreign model that satisfies the contract for one batch at a time, as ``iterconv.adapt`` makes it."""

    @property
    def stages(self) -> Any:
        """The stages; each also tells by ``shared`` whether the beginnings of its paths may be computed once."""

    @property
    def task(self) -> Any:
        """The meaning of the outputs; None if the targets are to tell."""

    def bind(self, inputs: Any) -> Bound:
        """Bind the model to one batch."""

    def output_of(self, made: Any, inputs: Any) -> Tensor:
        """Extract the rows that are measured from what the underlying model returns for a batch."""

    def named(self, inputs: Any) -> Any:
        """Key a batch by the names of the model's arguments if tokens or a mask are among them; else return it."""


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
        """The path of the ordinary pass: every block once, in order."""
        return tuple(range(len(self)))

    def step(self, index: int, z: Any, stage_input: Any) -> Any:
        """Apply block ``index`` to the representation ``z``; ``stage_input`` is what entered the stage."""
        return self.blocks[index](z)

    def forward(self, x: Any) -> Any:
        """Run the ordinary pass of the stage."""
        z = x
        for index in self.full_path:
            z = self.step(index, z, x)
        return z


class StagedModel(nn.Module):
    """A model that satisfies the contract ``stem -> (stage -> transition)* -> head``.

    Args:
        stem: A module from the model's input to the first stage's input.
        stages: The stages, in order.
        transitions: The modules between stages, one fewer than stages; number s leads from stage s to stage s + 1.
        head: A module from the last stage's output to the model's output.

    Raises:
        InputError: If the number of transitions does not fit the number of stages.
    """

    # These are annotated as Any, since nn.ModuleList would lose the type of its members.
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
        """Run the ordinary pass of the model."""
        z = self.stem(inputs)
        for index, stage in enumerate(self.stages):
            z = stage(z if index == 0 else self.transitions[index - 1](z))
        return self.head(z)

    def coupling_groups(self, first: int = 0) -> list[list[nn.Module]]:
        """Group the blocks of each stage from number ``first`` on, for ``iterconv.couple``.

        Source: Lippl et al., Sec. 4.1; ``first=5`` is the late coupling of Sec. D.3.

        Args:
            first: The first coupled block of each stage, from 0.

        Returns:
            One list of blocks for each stage.

        Raises:
            InputError: If fewer than two blocks of a stage would be coupled.
        """
        return coupling_groups(self.stages, first)


def coupling_groups(stages: Iterable[Any], first: int = 0) -> list[list[nn.Module]]:
    """Group the different blocks of each stage from number ``first`` on.

    Args:
        stages: The stages, or any objects with ``blocks``.
        first: The first coupled block of each stage, from 0.

    Returns:
        One list of blocks for each stage.

    Raises:
        InputError: If fewer than two different blocks of a stage would be coupled.
    """
    check_number("first", first, whole=True)
    counts = [len(stage.blocks) for stage in stages]
    # A recurrent stage holds one module many times, which can't be coupled to itself.
    groups = [list(dict.fromkeys(list(stage.blocks)[max(first, 0) :])) for stage in stages]
    if first < 0 or any(len(group) < 2 for group in groups):
        raise InputError(
            f"first={first} leaves a stage with fewer than two blocks to couple; stages have {counts} blocks, of which "
            "blocks that are one and the same module count once"
        )
    return groups


def is_staged(model: object) -> bool:
    """Return True if a model satisfies the contract, or can be bound to a batch and then does."""
    return isinstance(model, Bindable) or all(hasattr(model, name) for name in CONTRACT)


def require_staged(model: object) -> None:
    """Raise ``InputError`` unless ``model`` satisfies the contract, or can be bound to a batch and then does.

    Args:
        model: Any object.

    Raises:
        InputError: If ``stem``, ``stages``, ``transitions`` or ``head`` is missing or does not fit.
    """
    if isinstance(model, Bindable):
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
                f"stage {number + 1} of {type(model).__name__} needs `blocks` and `step(index, z, stage_input)`"
            )
