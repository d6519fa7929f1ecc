"""Smaller models made of a model's own blocks."""

import copy
from collections import Counter
from typing import Any

import torch
from torch import nn

from iterconv import paths
from iterconv.adapters.adapt import AdaptedModel
from iterconv.adapters.calls import call
from iterconv.errors import InputError
from iterconv.stages import untouched


def rebuilt(model: Any, route: paths.Route) -> nn.Module:
    """A copy of a model that executes a route by itself.

    Args:
        model: A staged model, or an adapted one.
        route: A path for every stage.

    Returns:
        The copy; of an adapted model it is the foreign model itself, which runs, saves and loads without iterconv.

    Raises:
        InputError: If a stage's blocks are not the children of one container, so that they can't be exchanged there, if
            constrained stages are to lose blocks, or the copy of an adapted model does not reproduce the route.
    """
    if any(hasattr(stage, "lipschitz") for stage in model.stages):
        raise InputError(
            "constrained stages keep a state for each of their blocks, which can't be exchanged; run the route with "
            "iterconv.paths.evaluate"
        )
    foreign = isinstance(model, AdaptedModel)
    original: nn.Module = model.model if foreign else model
    places = [_container(original, stage.blocks) for stage in model.stages]
    made = copy.deepcopy(original)
    for (container_name, names), stage, path in zip(places, model.stages, route, strict=True):
        if len(names) < len(stage.blocks):  # a loop over one module, which ends when the configuration says so
            continue
        container = made.get_submodule(container_name)
        own = [container._modules[name] for name in names]
        chosen = _own_places([own[block] for block in path], Counter(path))  # type: ignore[misc]
        _refill(container, names, chosen)
    _tell_configuration(made, sum(map(len, route)), sum(len(stage.blocks) for stage in model.stages))
    if foreign:
        _check(model, made, route)
    return made


def _check(model: AdaptedModel, made: nn.Module, route: paths.Route) -> None:
    inputs = model.last_inputs
    with untouched(model), untouched(made):
        [(_, outcome)] = paths.evaluate(model, [route], inputs)
        try:
            found = model.output_of(call(made, inputs), inputs)
        except Exception:  # noqa: BLE001 - a foreign forward that counts on what is no longer there
            found = outcome.output[:0]
    if found.shape != outcome.output.shape or not torch.equal(found, outcome.output):
        raise InputError(
            f"without some of its blocks, {type(made).__name__} does not compute the route; run it with "
            "iterconv.paths.evaluate"
        )


def _container(model: nn.Module, blocks: Any) -> tuple[str, list[str]]:
    """The name of the module whose children the blocks are, and their names there; one for a block in a loop."""
    wanted = list(blocks)
    for name, module in model.named_modules():
        members = module._modules.values()  # the same one may be there twice
        if all(block in members for block in wanted):
            if not isinstance(module, (nn.ModuleList, nn.Sequential)) and len(set(wanted)) > 1:
                break
            labels = {
                block: [label for label, member in module._modules.items() if member is block] for block in wanted
            }
            return name, [labels[block].pop(0) for block in wanted if labels[block]]
    raise InputError(
        f"the blocks of a stage ({type(wanted[0]).__name__}) are not in one nn.ModuleList or nn.Sequential, so they "
        "can't be exchanged there; run the route with iterconv.paths.evaluate"
    )


def _own_places(blocks: list[nn.Module], uses: Counter[int]) -> list[nn.Module]:
    """Blocks that know their number (for a cache) are copied where they are used again, and renumbered."""
    if not any(hasattr(module, "layer_idx") for block in blocks for module in block.modules()):
        return blocks
    made, seen = [], set()
    for number, block in enumerate(blocks):
        block = copy.deepcopy(block) if id(block) in seen else block
        seen.add(id(block))
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.__dict__["layer_idx"] = number
        made.append(block)
    return made


def _refill(container: nn.Module, names: list[str], blocks: list[nn.Module]) -> None:
    """Put blocks where others were; what stands before and behind stays there."""
    children = list(container._modules.items())
    labels = [label for label, _ in children]
    first = labels.index(names[0])
    kept = [child for label, child in children if label not in names]
    filled = kept[:first] + blocks + kept[first:]
    for label in labels:
        del container._modules[label]
    for number, child in enumerate(filled):
        container._modules[str(number)] = child


def _tell_configuration(model: nn.Module, now: int, before: int) -> None:
    """Hugging Face models loop over a number of layers in their configuration."""
    config = getattr(model, "config", None)
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        if getattr(config, name, None) == before:
            setattr(config, name, now)
    layers = getattr(config, "layer_types", None)
    if isinstance(layers, list) and len(layers) == before and len(set(layers)) == 1:
        config.layer_types = layers[:1] * now  # type: ignore[union-attr]
