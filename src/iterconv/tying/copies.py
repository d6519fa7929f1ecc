"""Copies of a model in which the blocks of a phase share their tensors."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.adapters.adapt import AdaptedModel
from iterconv.errors import InputError


@dataclass(eq=False)
class Twin:
    """A copy of a model, with the blocks of each stage in the order of the ordinary pass."""

    model: nn.Module
    stages: list[list[nn.Module]]

    def blocks(self) -> list[nn.Module]:
        """List the blocks of all stages."""
        return [block for stage in self.stages for block in stage]


def original_of(staged: Any) -> nn.Module:
    """Return the model that was adapted, or the staged model itself."""
    original: nn.Module = staged.model if isinstance(staged, AdaptedModel) else staged
    return original


def make_twin(staged: Any) -> Twin:
    """Copy the model behind a staged model; the copy shares nothing with it."""
    original = original_of(staged)
    names = {module: name for name, module in original.named_modules()}
    made = copy.deepcopy(original)
    return Twin(made, [[made.get_submodule(names[block]) for block in stage.blocks] for stage in staged.stages])


def check_blocks(staged: Any) -> None:
    """Raise ``InputError`` unless the model can be trained, and the blocks of each stage could be one."""
    if not isinstance(staged, nn.Module):
        raise InputError(f"{type(staged).__name__} is not a torch.nn.Module, so it can't be trained; make it one")
    stages: Any = staged.stages
    for number, stage in enumerate(stages):
        name = getattr(stage, "name", number + 1)
        if hasattr(stage, "lipschitz"):
            raise InputError(
                f"stage {name} is constrained, and its constants belong to its own blocks; tie an unconstrained model"
            )
        if len({id(block) for block in stage.blocks}) < len(stage.blocks):
            raise InputError(f"stage {name} applies one block several times, so it is tied already; tie another model")
        _check_alike(name, list(stage.blocks))
    if not any(p.requires_grad for stage in stages for block in stage.blocks for p in block.parameters()):
        raise InputError("no parameter of the blocks can be trained; call model.requires_grad_(True) first")


def _check_alike(name: object, blocks: list[nn.Module]) -> None:
    """Raise ``InputError`` for blocks that differ in their class, or in the names and shapes of their tensors."""
    forms = [{key: (tuple(t.shape), t.dtype) for key, t in _tensors_of(block)} for block in blocks]
    for number, (block, form) in enumerate(zip(blocks, forms, strict=True)):
        different = sorted(key for key in {**form, **forms[0]} if form.get(key) != forms[0].get(key))
        if different or type(block) is not type(blocks[0]):
            reason = f"in {different[0]}" if different else f"as {type(block).__name__}"
            raise InputError(
                f"block {number + 1} of stage {name} is built differently from block 1 ({reason}), so they can't be "
                "one block; name the blocks that are alike, as iterconv.adapt(model, inputs, stages=[...])"
            )


def _tensors_of(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from block.named_parameters(remove_duplicate=False)
    yield from block.named_buffers(remove_duplicate=False)


def tie_(blocks: Sequence[nn.Module]) -> list[Tensor]:
    """Replace the tensors of equally built blocks by shared ones: the mean over the blocks.

    Equal tensors keep their bits. What is not a tensor, such as a layer's number in a cache, stays with its block.
    Buffers that are not floating-point numbers are taken from the first block.

    Args:
        blocks: The blocks, changed in place.

    Returns:
        The shared tensors.
    """
    shared: dict[tuple[int, ...], Tensor] = {}
    for parts, name, tensors in list(_parallel(blocks)):
        key = tuple(map(id, tensors))
        if len(set(key)) == 1:  # shared already, perhaps with modules outside of the blocks
            continue
        if key not in shared:
            mean = _mean(tensors)
            frozen = isinstance(tensors[0], nn.Parameter) and not tensors[0].requires_grad
            shared[key] = nn.Parameter(mean, not frozen) if isinstance(tensors[0], nn.Parameter) else mean
        for part in parts:
            setattr(part, name, shared[key])  # and not into `_parameters`: recurrent layers keep a list of them
    return list(shared.values())


def untie_(blocks: Sequence[nn.Module], shared: Sequence[Tensor]) -> None:
    """Give each block but the first its own copies of shared tensors."""
    known = {id(tensor) for tensor in shared}
    for block in blocks[1:]:
        own: dict[int, Any] = {}  # a tensor that stands at two places of a block stays one
        for [part], name, [tensor] in list(_parallel([block])):
            if id(tensor) in known:
                setattr(part, name, own.setdefault(id(tensor), copy.deepcopy(tensor)))


@torch.no_grad()
def approach_(blocks: Sequence[nn.Module], factor: float) -> None:
    """Multiply the deviations of all floating tensors of equally built blocks from their mean by a factor."""
    done: set[int] = set()
    for _, _, tensors in _parallel(blocks):
        if id(tensors[0]) in done or not tensors[0].is_floating_point():
            continue
        done.add(id(tensors[0]))
        mean = _mean(tensors)
        for tensor in tensors:
            tensor.lerp_(mean, 1 - factor)


def _parallel(blocks: Sequence[nn.Module]) -> Iterator[tuple[list[nn.Module], str, list[Tensor]]]:
    """Yield the corresponding modules of equally built blocks with each of their own tensors."""
    for path, first in blocks[0].named_modules():
        parts = [block.get_submodule(path) for block in blocks]
        for name in [*first._parameters, *first._buffers]:
            tensors = [getattr(part, name) for part in parts]
            if all(isinstance(tensor, Tensor) for tensor in tensors):
                yield parts, name, tensors


@torch.no_grad()
def _mean(tensors: Sequence[Tensor]) -> Tensor:
    # A sum of equal numbers is exact in double precision, which some devices lack.
    mean = torch.empty_like(tensors[0], requires_grad=False)
    if not mean.is_floating_point():
        return mean.copy_(tensors[0])
    return mean.copy_(torch.stack([tensor.detach().cpu().double() for tensor in tensors]).mean(0))
