"""What passes through a module call: where the representation is among arguments and results."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor, nn

CACHES = ("past_key_values", "past_key_value", "layer_past", "past_kv")
"""Arguments by which blocks of language models keep what they attended to; a repeated block would attend to itself."""


@dataclass(frozen=True)
class Call:
    """Arguments of a module call, with the representation taken out."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None
    """Under which name the representation was passed; None if it came first."""

    @classmethod
    def split(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor | None, "Call"]:
        """The representation, which is the first tensor, and everything else."""
        if args and isinstance(args[0], Tensor):
            return args[0], cls(args[1:], kwargs, None)
        for name, value in kwargs.items():
            if isinstance(value, Tensor):
                return value, cls(args, {k: v for k, v in kwargs.items() if k != name}, name)
        return None, cls(args, kwargs, None)

    def without_cache(self) -> "Call":
        """The same call with caches off."""
        off = {name: None for name in CACHES if name in self.kwargs}
        if "use_cache" in self.kwargs:
            off["use_cache"] = False  # type: ignore[assignment]
        return Call(self.args, {**self.kwargs, **off}, self.keyword)

    def made(self, function: Callable[..., Any], z: Any) -> Any:
        """Call a function with another representation."""
        if self.keyword is None:
            return function(z, *self.args, **self.kwargs)
        return function(*self.args, **{**self.kwargs, self.keyword: z})


def representation(result: Any) -> Any:
    """The tensor that a block passes on: its result, or the first part of it."""
    if isinstance(result, (tuple, list)):
        return result[0] if result else None
    if isinstance(result, Mapping):
        return next(iter(result.values()), None)
    if is_dataclass(result) and not isinstance(result, type) and fields(result):
        return getattr(result, fields(result)[0].name)
    return result


def with_representation(result: Any, z: Any) -> Any:
    """A result of the same form with another representation in it."""
    if isinstance(result, tuple) and hasattr(result, "_fields"):  # a named tuple
        return type(result)(z, *result[1:])
    if isinstance(result, (tuple, list)):
        return type(result)([z, *result[1:]])
    if isinstance(result, Mapping):
        made = type(result)(result)  # type: ignore[call-arg]
        made[next(iter(result))] = z  # type: ignore[index]
        return made
    if is_dataclass(result) and not isinstance(result, type):
        return replace(result, **{fields(result)[0].name: z})
    return z


@contextmanager
def forwards_replaced(replacements: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another ``forward`` inside; hooks on them stay at work.

    Args:
        replacements: New forwards by module.
    """
    with ExitStack() as stack:
        for module, forward in replacements.items():
            before = module.__dict__.get("forward")
            module.__dict__["forward"] = forward
            stack.callback(_put_back, module, before)
        yield


def _put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = forward


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a batch: a tensor, a tuple of arguments, or a dictionary of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def clone(value: Any) -> Any:
    """Copies of all tensors in a nested structure, so that in-place operations don't reach the originals."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(clone(part) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(clone(part) for part in value)
    if isinstance(value, dict):
        return type(value)({name: clone(part) for name, part in value.items()})
    return value
