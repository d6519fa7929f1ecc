"""``timm:NAME``: a model of timm with weights from the hub, a file, or none."""

import contextlib
import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iterconv.data.hub import offline_if_unreachable
from iterconv.errors import InputError, line_of, require
from iterconv.zoo.common import Opened, choose_reference, load_images, require_images
from iterconv.zoo.libraries import library
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.smaller import read_origin, shrink


def open_timm(name: str, options: ModelOptions) -> Opened:
    """Create a model of timm, and images of the size and standardisation with which it was trained.

    Args:
        name: The name of the model, as for ``timm.create_model``.
        options: The user's options.

    Returns:
        The model and its batches.

    Raises:
        InputError: If timm has no such model, or if its weights or data can't be loaded.
    """
    timm = library("timm")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise InputError(f"timm has no model {name!r}; {hint}")
    require_images(options)
    model, channels = _create_model(timm, name, options.weights)
    expected = timm.data.resolve_model_data_config(model)
    # A model of one channel, or of more channels than there are means, gets the mean of all for each channel.
    mean, std = (
        values[:channels] if len(values) >= channels > 1 else (sum(values) / len(values),) * channels
        for values in (expected["mean"], expected["std"])
    )
    batches, classes = load_images(options, tuple(expected["input_size"][1:]), channels, mean, std)
    return choose_reference(model, batches, classes, model.num_classes, options)


def _create_model(timm: Any, name: str, weights: str) -> tuple[Any, int]:
    """Create the model; return it with the number of channels that it takes."""
    if weights in ("pretrained", "none"):
        try:
            with offline_if_unreachable() if weights == "pretrained" else contextlib.nullcontext():
                model = timm.create_model(name, pretrained=weights == "pretrained")
            return model, timm.data.resolve_model_data_config(model)["input_size"][0]
        except Exception as problem:  # noqa: BLE001 - whatever the hub's client raises, the remedy is the same
            raise InputError(
                f"can't load weights of {name} ({line_of(problem)}); pass --weights none for random ones, or a file"
            ) from None
    state, origin = _read_state(weights), read_origin(Path(weights))
    settings = timm.get_pretrained_cfg(name)
    # The file's own tensors tell how many classes and channels its model has.
    sizes: dict[str, Any] = {}
    for option, layer, side in (("num_classes", settings.classifier, 0), ("in_chans", settings.first_conv, 1)):
        weight = state.get(f"{layer}.weight") if isinstance(layer, str) else None
        if weight is not None and weight.ndim > side:
            sizes[option] = weight.shape[side]
    try:
        model = timm.create_model(name, **sizes)
        if origin:
            size = timm.data.resolve_model_data_config(model)["input_size"]
            model = shrink(model, torch.zeros(1, *size), origin, Path(weights))
        else:
            model.load_state_dict(state)
    except (RuntimeError, TypeError) as problem:
        raise InputError(f"{weights} holds no weights of {name} ({line_of(problem)})") from None
    return model, sizes.get("in_chans", 3)


def _read_state(path: str) -> dict[str, Tensor]:
    try:
        if path.endswith(".safetensors"):
            return dict(require("safetensors.torch", "opening weights").load_file(path))
        # Weights only: other contents of such a file could run code.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there are no weights at {path}; use pretrained, none, or a file") from None
    except Exception as problem:  # noqa: BLE001 - damaged files raise whatever their readers stumble over
        raise InputError(f"can't read weights from {path} ({line_of(problem)}); save them again") from None
    # Checkpoints of trainers keep the weights beside the state of the optimizer.
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no state dict; save model.state_dict() there")
    return found
