"""Where a model's residual stages are: by looking at what its modules do to a probe batch, or by name."""

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from iterconv.adapters.calls import Call, call, representation
from iterconv.errors import InputError
from iterconv.stages import rejections_in_a_line, untouched

StageNames = Sequence[Any]
"""``"blocks"`` (all children of a module), ``"layer1.1:"`` (those from number 1 on), ``"block*5"`` (one module that is
executed five times), or a list of modules."""


@dataclass(frozen=True)
class FoundStage:
    """A run of blocks of equal class that share one representational format."""

    name: str
    blocks: tuple[nn.Module, ...]

    def __str__(self) -> str:
        return f"{self.name}: {len(self.blocks)} x {type(self.blocks[0]).__name__}"


def find_stages(model: nn.Module, inputs: Any) -> list[FoundStage]:
    """Find runs of two or more blocks of equal class, each of which takes the last one's output and keeps its shape.

    A block that is executed again and again is a run too: a recurrent stage, all of whose blocks are one module.
    The model is run once on the probe batch, in evaluation mode, and left as it was. Runs inside of blocks are not
    looked at; neither are bare layers such as ``nn.Linear``, which hold no branch.

    Args:
        model: Any module.
        inputs: A probe batch: a tensor, a tuple of arguments or a dictionary of keywords.

    Returns:
        The stages in the order in which they are executed.

    Raises:
        InputError: If there is no such run, or the model rejects the batch.
    """
    calls: dict[nn.Module, list[tuple[Any, Any]]] = {}
    order: list[nn.Module] = []

    def note(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        z, _ = Call.split(args, kwargs)
        calls.setdefault(module, []).append((z, representation(result)))
        order.append(module)

    with ExitStack() as stack:
        for module in model.modules():
            if _may_be_block(module):
                stack.enter_context(_Hook(module.register_forward_hook(note, with_kwargs=True)))
        run(model, inputs)
    # A module that hangs in two places is a stage once.
    found = list({stage.blocks: stage for stage in reversed(list(_runs("", model, calls)))}.values())
    if not found:
        raise InputError(
            f"{type(model).__name__} has no run of two or more blocks of equal class that keep their input's shape; "
            'name the runs, as stages=["layer1.1:", "blocks"]'
        )
    position = {module: number for number, module in enumerate(order)}
    return sorted(found, key=lambda stage: position[stage.blocks[0]])


class _Hook:
    """A hook's handle as a context."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def run(model: nn.Module, inputs: Any) -> Any:
    """The model's output for a batch, in evaluation mode; what the model says against it becomes one line.

    Raises:
        InputError: If the model rejects the batch.
    """
    with rejections_in_a_line(model), untouched(model):
        return call(model, inputs)


def _may_be_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _runs(name: str, module: nn.Module, calls: dict[nn.Module, list[tuple[Any, Any]]]) -> Any:
    current: list[tuple[str, nn.Module]] = []
    for child_name, child in [*module.named_children(), ("", None)]:
        if current and child is not None and _follows(current[-1][1], child, calls):
            current.append((child_name, child))
            continue
        if len(current) > 1:
            yield FoundStage(_name(name, current, module), tuple(block for _, block in current))
        elif current and (times := _times_in_a_row(current[0][1], calls)) > 1:
            yield FoundStage(f"{_join(name, current[0][0])}*{times}", (current[0][1],) * times)
        elif current:
            yield from _runs(_join(name, current[0][0]), current[0][1], calls)
        current = []
        if child is not None:
            if _keeps_shape(child, calls):
                current = [(child_name, child)]
            else:
                yield from _runs(_join(name, child_name), child, calls)


def _keeps_shape(module: nn.Module, calls: dict[nn.Module, list[tuple[Any, Any]]]) -> bool:
    return all(
        isinstance(z, Tensor) and isinstance(result, Tensor) and z.shape == result.shape and z.ndim > 1
        for z, result in calls.get(module, [(None, None)])
    )


def _follows(block: nn.Module, other: nn.Module, calls: dict[nn.Module, list[tuple[Any, Any]]]) -> bool:
    if type(other) is not type(block) or not _keeps_shape(other, calls):
        return False
    if len(calls[block]) != 1 or len(calls[other]) != 1:
        return False
    return _hands_on(calls[block][0], calls[other][0])


def _hands_on(call: tuple[Any, Any], following: tuple[Any, Any]) -> bool:
    return call[1].shape == following[0].shape and call[1].data_ptr() == following[0].data_ptr()


def _times_in_a_row(module: nn.Module, calls: dict[nn.Module, list[tuple[Any, Any]]]) -> int:
    """How often a module is executed, if always on its own output; else 0."""
    made = calls.get(module, [])
    return len(made) if all(map(_hands_on, made, made[1:])) else 0


def _name(parent: str, members: list[tuple[str, nn.Module]], module: nn.Module) -> str:
    children = [name for name, _ in module.named_children()]
    first, last = children.index(members[0][0]), children.index(members[-1][0])
    if len(members) == len(children):
        return parent or type(module).__name__
    end = "" if last == len(children) - 1 else str(last + 1)
    return f"{parent}.{first}:{end}" if parent else f"{first}:{end}"


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def named_stages(model: nn.Module, stages: Any) -> list[FoundStage]:
    """The stages that a user names.

    Args:
        model: The model.
        stages: Names, or lists of modules.

    Returns:
        The stages in the order given.

    Raises:
        InputError: If a name leads nowhere or to fewer than two blocks.
    """
    if isinstance(stages, str) or not isinstance(stages, Iterable):
        raise InputError(
            f"stages={stages!r:.60} is no list; pass names or lists of modules, as ['layer1.1:', 'blocks']"
        )
    found = []
    for number, stage in enumerate(stages):
        if isinstance(stage, str):
            found.append(FoundStage(stage, _named_blocks(model, stage)))
        elif isinstance(stage, (Sequence, nn.ModuleList, nn.Sequential)) and all(
            isinstance(block, nn.Module) for block in stage
        ):
            found.append(FoundStage(f"stage {number}", tuple(stage)))
        else:
            raise InputError(f"stages[{number}] is {stage!r:.60}; use a name such as 'layer1.1:' or a list of modules")
        if len(found[-1].blocks) < 2:
            raise InputError(f"stage {found[-1].name!r} has {len(found[-1].blocks)} block(s); a stage needs 2 or more")
    if not found:
        raise InputError("stages=[] names no stage; leave it out to have them found")
    return found


def _named_blocks(model: nn.Module, name: str) -> tuple[nn.Module, ...]:
    match = re.fullmatch(r"(.*?)(?:\.?(\d*):(\d*)|\*(\d+))?", name)
    assert match is not None
    path, first, last, times = match.groups()
    try:
        parent = model.get_submodule(path)
    except AttributeError:
        known = ", ".join(sorted(n for n, _ in model.named_children()))
        raise InputError(f"{type(model).__name__} has no module {path!r}; at the top there are {known}") from None
    if times:
        return (parent,) * int(times)
    children = [child for child in parent._modules.values() if child is not None]  # the same one may be there twice
    return tuple(children[int(first) if first else None : int(last) if last else None])
