"""Smaller models on disk, as ``iterconv plan --save`` writes them and ``open_model`` reads them.

Each is a file of weights; its metadata name the model and the route of which the smaller one was made. Nothing in the
file is executed, and a model that a user's function made is only opened when the user names the function again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from iterconv import paths
from iterconv.adapters import adapt
from iterconv.adapters.rebuild import rebuild
from iterconv.errors import InputError, line_of, require
from iterconv.files import read_tensors, to_safetensors, write_atomically
from iterconv.paths.contract import is_staged

FORMAT = "iterconv smaller model 1"

_WITHOUT_CODE = ("timm:", "cifar-resnet:")
"""The beginnings of names whose models are made by the package's or a library's own code."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model and the routes of which a smaller model was made."""

    model: str | dict[str, Any]
    """``timm:NAME``, ``cifar-resnet:PATH`` or ``module:function``, or the configuration of a run."""
    steps: tuple[tuple[tuple[str, ...], paths.Route], ...] = ()
    """One entry for each plan: the names of the stages (none if they were searched), and the route that was kept."""

    @property
    def code(self) -> str:
        """The user's function that makes the model; empty for other models."""
        return self.model if isinstance(self.model, str) and not self.model.startswith(_WITHOUT_CODE) else ""

    def extend(self, stages: Sequence[str], route: paths.Route) -> "Origin":
        """Return the origin of a smaller model that is made of this one."""
        return replace(self, steps=(*self.steps, (tuple(stages), route)))


def write(path: Path, model: nn.Module, origin: Origin) -> None:
    """Write a smaller model, whole or not at all.

    Args:
        path: The file.
        model: The smaller model; tensors that it has under several names are written once.
        origin: The origin of the smaller model.

    Raises:
        OSError: If the file can't be written.
    """
    # Tied weights are one tensor under several names, and are written under the first of them.
    tensors: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensors.setdefault(id(tensor), (name, tensor.detach().cpu().clone()))
    head = json.dumps({"format": FORMAT, **vars(origin)})
    write_atomically(path, to_safetensors(dict(tensors.values()), iterconv=head))


def read_origin(path: Path) -> Origin | None:
    """Read the origin of the smaller model in a file.

    Args:
        path: Any file.

    Returns:
        The origin; None for a file that ``write`` did not write.

    Raises:
        InputError: If the file can't be read, or claims to be a smaller model and is damaged.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    safetensors = require("safetensors", "opening weights")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            head = (file.metadata() or {}).get("iterconv")
    except (OSError, safetensors.SafetensorError) as problem:
        raise InputError(f"can't read weights from {path} ({line_of(problem)}); save them again") from None
    if head is None:
        return None
    try:
        contents = json.loads(head)
        model = contents["model"]
        if contents["format"] != FORMAT or not isinstance(model, (str, dict)):
            raise ValueError("another format")
        return Origin(
            model=model, steps=tuple((_read_words(stages), _read_route(route)) for stages, route in contents["steps"])
        )
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise InputError(f"{path} is damaged ({line_of(problem)}); plan and save it again") from None


def _read_words(stages: Any) -> tuple[str, ...]:
    if not all(isinstance(word, str) for word in stages):
        raise TypeError("stages without names")
    return tuple(stages)


def _read_route(found: Any) -> paths.Route:
    route = tuple(tuple(path) for path in found)
    if not all(type(block) is int for path in route for block in path):
        raise TypeError("a route that is not of whole numbers")
    return route


def shrink(model: nn.Module, inputs: Any, origin: Origin, path: Path) -> nn.Module:
    """Make a model as small as the one in a file, and give it the file's weights.

    Args:
        model: The full model, with any weights.
        inputs: The inputs of a batch; a model that satisfies the contract does not need them.
        origin: The origin that ``read_origin`` returned.
        path: The file.

    Returns:
        The smaller model.

    Raises:
        InputError: If the file is damaged, or belongs to another model.
    """
    contract = is_staged(model)
    for stages, route in origin.steps:
        # Each plan was made of the model that the one before had left.
        staged: Any = model if contract else adapt(model, inputs, stages=list(stages) or None)
        sizes = [len(stage.blocks) for stage in staged.stages]
        fits = len(sizes) == len(route)
        if not fits or any(not 0 <= block < size for size, way in zip(sizes, route, strict=True) for block in way):
            raise InputError(f"{path} holds a smaller model of another one: this one has stages of {sizes} blocks")
        model = rebuild(staged, route)
    _load(model, read_tensors(path), path)
    return model


def _load(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load a state dict that holds a tensor of several names only once."""
    try:
        # Not strict: the names of tied weights other than the first are missing in the file.
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as problem:
        raise InputError(f"{path} holds weights of another model ({line_of(problem)})") from None
    state = model.state_dict(keep_vars=True)
    loaded = {id(state[name]) for name in tensors if name in state}
    wrong = [*unexpected, *(name for name in missing if id(state[name]) not in loaded)]
    if wrong:
        raise InputError(f"{path} holds weights of another model: {wrong[0]} is in one of them only")
