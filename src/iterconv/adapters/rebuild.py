"""Smaller models that are made of a model's own blocks."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.adapters.adapt import AdaptedModel
from iterconv.adapters.calls import call, switch_off_caches
from iterconv.adapters.configurations import find_configurations, tell_configurations
from iterconv.errors import InputError, describe_error
from iterconv.paths.evaluate import evaluate
from iterconv.paths.families import Path, Route
from iterconv.paths.untouched import untouched
from iterconv.tasks.tokens import is_causal

MOST_TOKENS = 8192
"""The most tokens of a sequence that is made longer than a sliding window."""


def rebuild(model: Any, route: Route) -> nn.Module:
    """Make a copy of a model that executes a route by itself.

    Args:
        model: A staged model, or an adapted one.
        route: A path for every stage.

    Returns:
        The copy. An adapted model gives a copy of the foreign model, which runs, saves and loads without iterconv.

    Raises:
        InputError: If the blocks of a stage are not the children of one container, in which they could be exchanged; if
            the model has constrained stages; or if the copy of an adapted model does not reproduce the route or can't
            be made again from its configuration.
    """
    if any(hasattr(stage, "lipschitz") for stage in model.stages):
        raise InputError(
            "constrained stages keep a state for each of their blocks, which can't be exchanged; run the route with "
            "iterconv.paths.evaluate"
        )
    original, containers = _containers(model, route)
    # The original stays as it is. Blocks that are left out are copied too, which takes memory for a moment only.
    made = copy.deepcopy(original)
    for container in containers:
        before, order = container.refill(made.get_submodule(container.name))
        tell_configurations(made, container.name, before, order)
    if isinstance(model, AdaptedModel):
        _check(model, made, route)
    return made


def layers_of(model: Any, route: Route) -> tuple[int, list[int]]:
    """List the layers that a route executes, by their numbers in the model's own list of layers.

    Args:
        model: A staged model, or an adapted one.
        route: A path for every stage.

    Returns:
        The number of layers of the model, and the numbers (from 0) of those that the route executes, in its order.

    Raises:
        InputError: If the model's layers are in several lists, or in none.
    """
    original, containers = _containers(model, route)
    if len(containers) > 1:
        names = " and ".join(container.name for container in containers)
        raise InputError(f"layers are numbered within one list of layers; this model has them in {names}")
    return containers[0].order(original.get_submodule(containers[0].name))


def _containers(model: Any, route: Route) -> tuple[nn.Module, list["_Container"]]:
    """Return the model itself, and the modules that hold its blocks, with the paths that replace these."""
    original: nn.Module = model.model if isinstance(model, AdaptedModel) else model
    containers: dict[str, _Container] = {}
    for stage, path in zip(model.stages, route, strict=True):
        name, places = _find_container(original, list(stage.blocks))
        containers.setdefault(name, _Container(name)).stages.append((places, path))
    return original, list(containers.values())


@dataclass
class _Container:
    """A module whose children are exchanged."""

    name: str
    stages: list[tuple[list[int], Path]] = field(default_factory=list)
    """The places of each stage's blocks among the children, and the path that replaces them."""

    def refill(self, module: nn.Module) -> tuple[int, list[int]]:
        """Replace the blocks of the stages by those of their paths; children that belong to no stage stay in place.

        Args:
            module: The container in the copy of the model.

        Returns:
            The same as ``order``.
        """
        before, order = self.order(module)
        if not self._loops:  # the configuration tells the length of a loop
            # `children()` would leave out a module that is there twice, and with it a place.
            children = list(module._modules.values())
            module._modules.clear()
            for label, child in enumerate(_renumber([children[number] for number in order])):
                module._modules[str(label)] = child
        return before, order

    def order(self, module: nn.Module) -> tuple[int, list[int]]:
        """Return the number of layers before, and the numbers of the layers that the paths leave, in their order."""
        (places, path), *_ = self.stages
        if self._loops:
            return len(places), list(path)
        taken = {place: (places, path) for places, path in self.stages for place in places}
        order: list[int] = []
        for number in range(len(module._modules)):
            places, path = taken.get(number, ([number], (0,)))
            # The whole path is put in at the place of the stage's first block.
            order += [places[block] for block in path] if number == places[0] else []
        return len(module._modules), order

    @property
    def _loops(self) -> bool:
        """True for a loop over one module."""
        (places, _), *_ = self.stages
        return len(set(places)) < len(places)


def _find_container(model: nn.Module, blocks: list[nn.Module]) -> tuple[str, list[int]]:
    """Find the module whose children the blocks are; return its name, and the places of the blocks in it."""
    for name, module in model.named_modules():
        members = list(module._modules.values())  # children() would skip a module that is there twice
        if all(block in members for block in blocks):
            looped = len(set(blocks)) == 1 and members.count(blocks[0]) == 1
            if not isinstance(module, (nn.ModuleList, nn.Sequential)) and not looped:
                break
            places: dict[nn.Module | None, list[int]] = {}
            for number, member in enumerate(members):
                places.setdefault(member, []).append(number)
            if looped:
                return name, places[blocks[0]] * len(blocks)
            return name, [places[block].pop(0) for block in blocks]
    raise InputError(
        f"the blocks of a stage ({type(blocks[0]).__name__}) are not in one nn.ModuleList or nn.Sequential, so they "
        "can't be exchanged there; run the route with iterconv.paths.evaluate"
    )


def _renumber(blocks: list[Any]) -> Iterator[Any]:
    """Renumber blocks that know their number, which caches need; one that is used again is copied for that."""
    know = any(hasattr(module, "layer_idx") for block in blocks for module in block.modules())
    seen: set[int] = set()
    for number, block in enumerate(blocks):
        own = copy.deepcopy(block) if know and id(block) in seen else block
        seen.add(id(block))
        for module in own.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number
        yield own


def _check(model: AdaptedModel, made: nn.Module, route: Route) -> None:
    """Compare the copy with the route, also on sequences that are longer than a window of attention."""
    for inputs in [model.probe, *_lengthen(model.model, model.probe)]:
        with untouched(model), untouched(made):
            [(_, outcome)] = evaluate(model, [route], inputs)
            try:
                with switch_off_caches(made):
                    found = model.output_of(call(made, inputs), inputs)
            except Exception:  # noqa: BLE001 - a foreign forward that needs a block that is gone
                found = outcome.output[:0]
        if not torch.equal(found, outcome.output):
            raise InputError(
                f"without some of its blocks, {type(made).__name__} does not compute the route; run it with "
                "iterconv.paths.evaluate"
            )
    if hasattr(made, "save_pretrained"):
        _check_that_it_loads(made)


def _lengthen(model: nn.Module, inputs: Any) -> list[Any]:
    """Make a sequence longer than every window of attention, if the probe stays within one; else return none.

    A copy that computes another window of attention is only found out on a sequence that is longer than the window.
    """
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not is_causal(model):
        return []
    configs = find_configurations(model)
    windows = [window for config in configs if isinstance(window := getattr(config, "sliding_window", None), int)]
    most = min([MOST_TOKENS, *(getattr(config, "max_position_embeddings", MOST_TOKENS) for config in configs)])
    length = min(max(windows, default=0) + 8, most)
    if not windows or length <= min(ids.shape[1], min(windows)):
        return []
    return [{"input_ids": ids[:1].repeat(1, -(-length // ids.shape[1]))[:, :length]}]


def _check_that_it_loads(made: Any) -> None:
    """Check that a model that is made from the copy's configuration has weights of the copy's names and shapes."""
    try:
        # A model without memory or random weights is enough to compare names and shapes.
        with torch.device("meta"):
            again = type(made)(made.config)
    except Exception as problem:  # noqa: BLE001 - transformers refuses configurations in many ways
        reason = describe_error(problem, 120)
    else:
        shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (made, again)]
        if shapes[0] == shapes[1]:
            return
        different = sorted(set(shapes[0].items()) ^ set(shapes[1].items()), key=str)[0][0]
        reason = f"{different} would differ"
    raise InputError(
        f"the configuration of {type(made).__name__} can't express the route ({reason}), so it could not be loaded "
        "again; run it with iterconv.paths.evaluate"
    )
