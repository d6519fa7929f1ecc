"""Configurations of Hugging Face models, which are brought in line when the model's layers have changed."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")
"""The names under which configurations keep the number of layers."""
SIDES = {
    "encoder": ("encoder_layers", "num_encoder_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
"""The same names in encoder-decoder models, by a word in the names of the modules of each side."""


def find_configurations(model: nn.Module) -> list[Any]:
    """Collect the configurations of a model and its modules, and those nested in them, each once."""
    found = _configurations_of(model.modules())
    for config in found:  # the list grows on the way
        for part in vars(config).values():
            if hasattr(part, "to_dict") and not any(part is other for other in found):
                found.append(part)
    return found


def _configurations_of(modules: Iterable[nn.Module]) -> list[Any]:
    """Collect the configurations of modules, each once."""
    configs = [getattr(module, "config", None) for module in modules]
    return list({id(config): config for config in configs if hasattr(config, "to_dict")}.values())


def tell_configurations(model: nn.Module, container: str, before: int, order: Sequence[int]) -> None:
    """Change the number of layers, and every list with one entry for each layer, in a model's configurations.

    Args:
        model: A model, changed in place; a model without configurations stays as it is.
        container: The name of the module that held the layers.
        before: The number of layers that it held.
        order: The numbers of the layers that it holds now, in their order.
    """
    side = next((side for side in ("decoder", "encoder") if side in container), None)
    others = [name for other, names in SIDES.items() if other != side for name in names]
    counts = [*COUNTS, *(SIDES[side] if side else [])]
    for config in _find_governing(model, container):
        # Old configurations keep their own names and map the usual ones to them.
        attributes = getattr(config, "attribute_map", {})
        if any(attributes.get(name) in others for name in COUNTS):  # here, the usual name means the other side
            counts = [name for name in counts if name not in attributes]
        for name, value in list(vars(config).items()):
            of_the_other_side = side == "decoder" and name == "num_layers" and _has(config, side)
            if name in counts and value == before and not of_the_other_side:
                setattr(config, name, len(order))
            # Lists of one entry a layer tell the kind of each layer, such as its window of attention.
            # `architectures` is a list of classes, and as long as the layers by chance only.
            elif isinstance(value, (list, tuple)) and len(value) == before and name != "architectures":
                setattr(config, name, type(value)(value[place] for place in order))


def _has(config: Any, side: str) -> bool:
    return any(getattr(config, name, None) is not None for name in SIDES[side])


def _find_governing(model: nn.Module, container: str) -> list[Any]:
    """Find the configurations of a container and of the modules around it."""
    names = container.split(".")
    return _configurations_of(model.get_submodule(".".join(names[:end])) for end in range(len(names) + 1))
