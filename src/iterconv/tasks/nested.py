"""Tensors in nested structures: tuples, lists, mappings and dataclasses."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

Place = tuple[Any, ...]
"""The place of a tensor in a nested structure: indices, keys and field names from the outside in."""


def tensors_in(value: Any) -> dict[Place, Tensor]:
    """All tensors in tuples, lists, mappings and dataclasses, however nested, by place."""
    return {place: leaf for place, leaf in leaves_in(value).items() if isinstance(leaf, Tensor)}


def leaves_in(value: Any) -> dict[Place, Any]:
    """Whatever is in tuples, lists, mappings and dataclasses, however nested, by place; what is None is left out."""
    if value is None:
        return {}
    if not isinstance(value, (tuple, list, Mapping)) and not (is_dataclass(value) and not isinstance(value, type)):
        return {(): value}
    return {(key, *rest): leaf for key, part in _parts(value) for rest, leaf in leaves_in(part).items()}


def with_tensors(value: Any, tensors: Mapping[Place, Any]) -> Any:
    """A structure of the same form with something else at some places.

    Args:
        value: Tuples, lists, mappings and dataclasses, however nested.
        tensors: The new values by place.
    """
    if () in tensors:
        return tensors[()]
    changed: dict[Any, dict[Place, Any]] = {}
    for (key, *rest), tensor in tensors.items():
        changed.setdefault(key, {})[tuple(rest)] = tensor
    if not changed:
        return value
    return _rebuild(value, {key: with_tensors(part, changed.get(key, {})) for key, part in _parts(value)})


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def _rebuild(value: Any, parts: dict[Any, Any]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*parts.values())
    if isinstance(value, (tuple, list)):
        return type(value)(parts.values())
    if isinstance(value, Mapping):
        made = type(value)(value)  # type: ignore[call-arg]
        for key, part in parts.items():  # outputs of transformers have no update
            made[key] = part  # type: ignore[index]
        return made
    # A new object: the model may still hold the one that it returned.
    return replace(value, **parts)


def clone(value: Any) -> Any:
    """A structure of the same form with copies of its tensors, which in-place operations don't reach."""
    return with_tensors(value, {place: tensor.clone() for place, tensor in tensors_in(value).items()})


def first_tensor(value: Any) -> Any:
    """The first tensor in a nested structure; None if there is none."""
    return next(iter(tensors_in(value).values()), None)
