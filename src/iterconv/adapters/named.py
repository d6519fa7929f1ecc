"""Stages that a user names.

``"blocks"`` means all children of a module, ``"layer1.1:"`` the children from number 1 on, and ``"block*5"`` one module
that is executed five times. A list of modules needs no name.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from iterconv.adapters.calls import can_be_answered
from iterconv.adapters.find import FoundStage
from iterconv.errors import InputError

MOST_BLOCKS = 10_000
"""The most blocks of a stage; a larger number is a mistake."""


def find_named_stages(model: nn.Module, stages: Any) -> list[FoundStage]:
    """Find the stages that a user names.

    Args:
        model: The model.
        stages: The names, or lists of modules.

    Returns:
        The stages, in the given order.

    Raises:
        InputError: If a name leads nowhere, to fewer than two blocks or to more than ``MOST_BLOCKS``, or if a block is
            in two stages.
    """
    if isinstance(stages, str) or not isinstance(stages, Iterable):
        raise InputError(
            f"stages={stages!r:.60} is not a list; pass names or lists of modules, as ['layer1.1:', 'blocks']"
        )
    found = [_find_stage(model, number, stage) for number, stage in enumerate(stages)]
    if not found:
        raise InputError("stages=[] names no stage; leave it out to have them found")
    owners: dict[nn.Module, FoundStage] = {}
    for stage in found:
        for block in stage.blocks:
            if owners.setdefault(block, stage) is not stage:
                raise InputError(f"a block ({type(block).__name__}) is in two stages; name it in one")
    return found


def _find_stage(model: nn.Module, number: int, stage: Any) -> FoundStage:
    if isinstance(stage, str):
        found = FoundStage(stage, _find_blocks(model, stage))
    elif isinstance(stage, (Sequence, nn.ModuleList, nn.Sequential)) and all(
        isinstance(block, nn.Module) for block in stage
    ):
        found = FoundStage(f"stage {number + 1}", tuple(stage))
    else:
        raise InputError(f"stages[{number}] is {stage!r:.60}; use a name such as 'layer1.1:' or a list of modules")
    if not 2 <= len(found.blocks) <= MOST_BLOCKS:
        raise InputError(
            f"stage {found.name!r} has {len(found.blocks)} block(s); a stage needs 2 or more and takes {MOST_BLOCKS}"
        )
    if scripted := [block for block in found.blocks if not can_be_answered(block)]:
        raise InputError(
            f"a block of stage {found.name!r} ({type(scripted[0]).__name__}) is a script, which can't be driven; pass "
            "the model that it was made of"
        )
    return found


def _find_blocks(model: nn.Module, name: str) -> tuple[nn.Module, ...]:
    match = re.fullmatch(r"(.*?)(?:\.?(\d*):(\d*)|\*(\d+))?", name)
    assert match is not None
    path, first, last, times = match.groups()
    try:
        parent = model.get_submodule(path)
    except AttributeError:
        known = ", ".join(sorted(n for n, _ in model.named_children()))
        raise InputError(f"{type(model).__name__} has no module {path!r}; at the top there are {known}") from None
    if times:  # one block more than allowed is enough to be refused
        return (parent,) * min(int(times), MOST_BLOCKS + 1)
    # children() would skip a module that is there twice.
    children = [child for child in parent._modules.values() if child is not None]
    return tuple(children[int(first) if first else None : int(last) if last else None])
