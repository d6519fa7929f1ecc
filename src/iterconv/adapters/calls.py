"""Calls of modules: handlers that answer calls in a module's place, and batches as arguments."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iterconv.paths.untouched import HANDLER
from iterconv.tasks.nested import Place, clone, tensors_in, with_tensors

CACHES = ("past_key_values", "past_key_value", "layer_past", "past_kv")
"""Arguments in which blocks of language models cache keys and values; with them, a repeated block would attend to its
own first execution."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of one module call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def tensors(self) -> dict[Place, Tensor]:
        """Collect all tensors among the arguments, also in nested ones, by place."""
        return tensors_in((self.args, self.kwargs))

    def with_tensors(self, tensors: Mapping[Place, Any]) -> "Arguments":
        """Return the same arguments with other tensors at some places."""
        return Arguments(*with_tensors((self.args, self.kwargs), tensors))

    def without_cache(self) -> "Arguments":
        """Return the same arguments with caches off."""
        off: dict[str, Any] = {name: None for name in CACHES if name in self.kwargs}
        if "use_cache" in self.kwargs:
            off["use_cache"] = False
        return Arguments(self.args, {**self.kwargs, **off})


Handler = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""A function that answers a module's call; it gets the module, the positional and the keyword arguments."""


@contextmanager
def answer_calls(handlers: Mapping[nn.Module, Handler]) -> Iterator[None]:
    """Let handlers answer the calls of modules inside the context, before any hook of the modules runs.

    The class of each module is exchanged for a subclass whose ``__call__`` asks the handler. A handler makes the
    ordinary call, hooks included, by ``call_itself``.

    Args:
        handlers: The handler of each module.
    """
    # Hooks would not do: only a module's own `__call__` can leave the module out, and only the class can exchange it.
    with ExitStack() as stack:
        for module, handler in handlers.items():
            stack.callback(_give_back, module, type(module))
            module.__dict__[HANDLER] = handler
            # This bypasses nn.Module.__setattr__, which is made for parameters, buffers and submodules.
            object.__setattr__(module, "__class__", _make_answering_class(type(module)))  # type: ignore[arg-type]
        yield


def _give_back(module: nn.Module, kind: type) -> None:
    object.__setattr__(module, "__class__", kind)
    del module.__dict__[HANDLER]


@functools.lru_cache(maxsize=1024)
def _make_answering_class(kind: Any) -> Any:
    """Derive a class that passes its calls on to the handler; it keeps the name, which messages and models read."""

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__[HANDLER](self, args, kwargs)

    names = {"__call__": __call__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)


def call_itself(module: nn.Module, arguments: Arguments) -> Any:
    """Call a module itself, also while a handler answers its calls."""
    # The second class in the order of resolution is the module's own, behind the one that asks the handler.
    kind = type(module).__mro__[1] if HANDLER in module.__dict__ else type(module)
    return kind.__call__(module, *arguments.args, **arguments.kwargs)


def _own_hooks(module: nn.Module) -> dict[int, Any]:
    """Return the hooks that a library of models has put on its own module, as transformers does for hidden states."""
    # A script's own classes and hooks are not told apart in this way, as all of them are in `__main__`.
    library = type(module).__module__.partition(".")[0]
    return {
        key: hook
        for key, hook in module._forward_hooks.items()
        if library != "__main__" and getattr(hook, "__module__", "").partition(".")[0] == library
    }


@contextmanager
def hold_own_hooks(modules: Iterable[nn.Module]) -> Iterator[Callable[[nn.Module, Any, Any, Any], Any]]:
    """Keep a library's own hooks from firing inside the context, so that they can be fired once for each place.

    These hooks are part of the model, which expects one entry for each of its blocks, whether the block is left out or
    repeated. All other hooks, such as a user's, watch the blocks and fire once for each application.

    Args:
        modules: The blocks of a stage.

    Yields:
        A function that runs the held hooks of a module. It gets the module, its positional and keyword arguments and
        its result, and returns the result, or its replacement by a hook.
    """
    held = {module: own for module in modules if (own := _own_hooks(module))}
    before = {module: dict(module._forward_hooks) for module in held}

    def fire(module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        for key, hook in held.get(module, {}).items():
            with_kwargs = key in module._forward_hooks_with_kwargs
            made = hook(module, args, kwargs, result) if with_kwargs else hook(module, args, result)
            result = result if made is None else made
        return result

    try:
        for module, own in held.items():
            for key in own:
                del module._forward_hooks[key]
        yield fire
    finally:
        for module, hooks in before.items():
            # All are put back together, since hooks fire in the order of this dictionary.
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)


def can_be_answered(module: nn.Module) -> bool:
    """Return True if a handler can answer a module's calls; scripted modules are called from within torch."""
    return not isinstance(module, torch.jit.ScriptModule)


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a batch: a tensor, a tuple of arguments, or a dictionary of keywords.

    The model gets a copy, since a model that changes its input in place would spoil the batch for the next pass.
    """
    inputs = clone(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def name_arguments(model: nn.Module, inputs: Any) -> Any:
    """Key a batch by the names of the model's arguments; a batch that does not match them is returned as it is."""
    if isinstance(inputs, Mapping):
        return inputs
    args = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    try:
        # The user's positional arguments go to the parameters of the same places.
        return inspect.signature(model.forward).bind(*args).arguments
    except (TypeError, ValueError):
        return inputs


@contextmanager
def switch_off_caches(model: nn.Module) -> Iterator[None]:
    """Switch off ``use_cache`` in the configurations of Hugging Face models inside the context."""
    # By identity, as modules share configurations and some configurations can't be hashed.
    configs: dict[int, Any] = {
        id(config): config
        for config in (getattr(module, "config", None) for module in model.modules())
        if getattr(config, "use_cache", False)
    }
    try:
        for config in configs.values():
            config.use_cache = False
        yield
    finally:
        for config in configs.values():
            config.use_cache = True
