"""The residual branch of any block: found in its traced forward, bounded part by part.

A block is traced with torch.fx and walked once. Each tensor on the way is ``a z + g(z)`` with a number a and a bound on
the Lipschitz constant of g, z being the block's input; where a is 1, g is the residual branch, else (a - 1) z + g(z).
"""

import inspect
import math
import operator as python
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from iterconv.errors import InputError
from iterconv.lipschitz.bounds import NOTHING, Constant, Expression, Scale, State, Sum, Times
from iterconv.lipschitz.rules import (
    AFFINE_FUNCTIONS,
    AFFINE_LAYERS,
    IDENTITIES,
    REARRANGEMENTS,
    behaves,
    is_activation,
    slope,
    window_overlap,
)
from iterconv.spectral.linear_maps import Operator


@dataclass(frozen=True, eq=False)
class Branch:
    """The residual branch f of a block z + f(z), or act(z + f(z))."""

    function: fx.GraphModule
    """f itself."""
    bound: Expression
    uncovered: tuple[str, ...]
    """Parts without a bound, by name."""
    last: nn.Module | None
    """The layer that f ends in."""


def _first(result: Any) -> Any:
    """What a block hands on: its result, or the first part of it; traced results are no tensors yet."""
    if isinstance(result, Mapping):
        return next(iter(result.values()), None)
    if isinstance(result, (tuple, list)):
        return result[0] if result else None
    return result


def find_branch(block: nn.Module, z: Tensor) -> Branch:
    """Trace a block and find its residual branch.

    Args:
        block: A module in evaluation mode that takes one tensor.
        z: What comes in, a batch. What it hands on is its output, or the first of several.

    Returns:
        The branch.

    Raises:
        InputError: If the block can't be traced or adds nothing to its input.
    """
    kind = type(block).__name__
    root = _traced(block)
    graph = root.graph
    walk = _Walk(root)
    with torch.random.fork_rng(devices=[]):
        results = []
        for run in (block, walk.run):
            torch.manual_seed(0)
            results.append(_first(run(z.clone())))
    if any(isinstance(result, Tensor) and bool(result.isnan().any()) for result in results):
        raise InputError(f"{kind} makes NaN of this batch; look for NaN in the batch and the weights")
    if all(isinstance(result, Tensor) for result in results) and not torch.equal(*results):
        raise InputError(f"the traced forward of {kind} computes something else, as where an alias is changed in place")
    [output] = [node for node in graph.nodes if node.op == "output"]
    node: Any = _first(output.args[0])  # of several outputs, the one that is handed on
    # Behind the addition there may be an activation, as in the first ResNets.
    while isinstance(node, fx.Node) and node in walk.states and walk.states[node].identity == 0:
        if not _is_activation(node, root):
            break
        node = node.args[0]
    if not isinstance(node, fx.Node) or node not in walk.states or walk.states[node].identity == 0:
        raise InputError(f"{kind} adds nothing to its input: no z + f(z) is found in its forward")
    state, uncovered = walk.states[node], _uncovered_before(node, walk)
    bound, last = state.branch, _last_layer(node, walk)
    if state.identity != 1:  # a z + g(z): what is beyond z belongs to the branch
        bound, last = Sum((Constant(abs(state.identity - 1)), bound)), None
    return Branch(_branch_function(root, node), bound, uncovered, last)


def _traced(block: nn.Module) -> fx.GraphModule:
    parameters = list(inspect.signature(block.forward).parameters.values())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    defaults = {p.name: p.default for p in parameters[1:] if p.kind not in variadic}
    try:
        if any(value is inspect.Parameter.empty for value in defaults.values()):
            raise TypeError("it takes more than one tensor")
        return fx.GraphModule(block, _Tracer().trace(block, concrete_args=defaults or None))
    except Exception as problem:  # whatever a foreign forward does that can't be traced
        raise InputError(f"the forward of {type(block).__name__} can't be traced") from problem


class _Tracer(fx.Tracer):
    """Follows a forward down to the layers that have rules, and those that can have none."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        name = type(m).__name__.lower()
        known = isinstance(m, (*AFFINE_LAYERS, _BatchNorm)) or name in IDENTITIES or is_activation(name)
        return known or _is_opaque(m) or super().is_leaf_module(m, module_qualified_name)


def _is_opaque(module: nn.Module) -> bool:
    """Whether a module is a norm without fixed statistics, or attention: no useful constant bounds it."""
    name = type(module).__name__.lower()
    return (
        not isinstance(module, _BatchNorm) and re.search("attention|norm(2d)?$|(layer|group|rms)norm", name) is not None
    )


def opaque_parts(block: nn.Module) -> list[str]:
    """The classes of a block's parts that no bound covers."""
    return list(dict.fromkeys(type(module).__name__ for module in block.modules() if _is_opaque(module)))


class _Walk(fx.Interpreter):
    """Runs a traced block, and notes the state of each tensor that depends on its input."""

    def __init__(self, root: fx.GraphModule) -> None:
        super().__init__(root)
        self.states: dict[fx.Node, State] = {}
        self.uncovered: dict[fx.Node, str] = {}
        self._order = {node: place for place, node in enumerate(root.graph.nodes)}

    def run_node(self, n: fx.Node) -> Any:
        # Shapes are taken before the node runs, as it may work in place.
        inputs = [node for node in n.all_input_nodes if node in self.states]
        shapes = {node: tuple(self.env[node].shape) for node in inputs if isinstance(self.env[node], Tensor)}
        first = n.op == "placeholder" and not any(node.op == "placeholder" for node in self.states)
        result = super().run_node(n)
        if first:
            self.states[n] = State(1.0, NOTHING)
        elif inputs and n.op != "output" and not (self._name(n) in _OF_SHAPES and not _has_tensor(result)):
            try:
                state = self._state(n, inputs, shapes, tuple(result.shape) if isinstance(result, Tensor) else ())
            except (IndexError, TypeError, KeyError, AttributeError, ValueError):  # an unforeseen way to call it
                state = None
            for overwritten in self._overwritten(n, inputs):  # what was noted of it holds no longer
                self.states[overwritten], self.uncovered[overwritten] = State(0.0, Constant(math.nan)), self._name(n)
                state = None
            if state is None:
                self.uncovered[n] = self._name(n)
                state = State(0.0, Constant(math.nan))
            self.states[n] = state
        return result

    def _overwritten(self, n: fx.Node, inputs: Sequence[fx.Node]) -> list[fx.Node]:
        """What is needed later and is changed in place, also through an alias."""
        in_place = (
            getattr(self.submodules_of(n), "inplace", False) is True
            or n.kwargs.get("inplace") is True
            or (n.op != "call_module" and re.fullmatch(r".*[a-z0-9]_|i(add|sub|mul|truediv)", _function_name(n)))
        )
        changed = self.env[inputs[0]]
        if not in_place or not isinstance(changed, Tensor):
            return []
        memory = changed.untyped_storage().data_ptr()
        return [
            node
            for node in self.states
            if any(self._order[user] > self._order[n] for user in node.users)
            and isinstance(value := self.env.get(node), Tensor)
            and value.untyped_storage().data_ptr() == memory
        ]

    def submodules_of(self, n: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.fetch_attr(str(n.target)) if n.op == "call_module" else None

    def _name(self, n: fx.Node) -> str:
        module = self.submodules_of(n)
        return type(module).__name__ if module is not None else _function_name(n)

    def _state(
        self, n: fx.Node, inputs: Sequence[fx.Node], shapes: dict[fx.Node, tuple[int, ...]], made: tuple[int, ...]
    ) -> State | None:
        name = self._name(n).lower().rstrip("_")
        if n.op == "call_module":
            return self._of_module(n, self.submodules_of(n), name, shapes)
        if name in ("add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "div", "neg"):
            if any(shapes[node] != made for node in inputs):
                return None  # broadcast to something larger, whose norm grows
            if name.startswith(("add", "iadd", "sub", "isub")):
                return self._of_sum(n, -1 if "sub" in name else 1)
            return self._of_product(n, name)
        state = self.states[inputs[0]]
        if name in ("cat", "concat"):
            parts = n.args[0]
            if isinstance(parts, (list, tuple)) and all(part in self.states for part in parts):
                return State(0.0, Sum(tuple(self.states[part].total for part in parts), power=2))  # type: ignore[index]
            return None
        if len(inputs) > 1 or n.args[:1] != (inputs[0],):
            return None
        if name in IDENTITIES:
            return None if _is_awake(n) else state
        if name in REARRANGEMENTS and not (name == "getitem" and _picks(n.args[1])):
            return State(0.0, state.total)
        if name in AFFINE_FUNCTIONS and not (name in ("mean", "sum") and _reduces_examples(n, len(shapes[inputs[0]]))):
            args, kwargs = fx.node.map_arg((n.args[1:], dict(n.kwargs)), lambda node: self.env[node])
            function = Applied(n.op == "call_method", n.target, args, kwargs)
            return State(0.0, state.total, Operator(function, shapes[inputs[0]][1:]))
        return _activated(state, slope(name, None, n.args[1:], dict(n.kwargs)))

    def _of_module(self, n: fx.Node, module: Any, name: str, shapes: dict[fx.Node, tuple[int, ...]]) -> State | None:
        if len(n.args) != 1 or n.kwargs or n.args[0] not in shapes or _hooked(module):
            return None
        state, shape = self.states[n.args[0]], shapes[n.args[0]][1:]  # type: ignore[index]
        if not behaves(module, name, shape):
            return None
        if isinstance(module, AFFINE_LAYERS):
            if state.operator is not None and state.operator.layer is None:
                return replace(state, operator=replace(state.operator, layer=module, shape=shape))
            return State(0.0, state.total, Operator(module, shape))
        if isinstance(module, _BatchNorm):
            if module.running_var is None:
                return None
            return _activated(_normed(state, module, shape), _own_slope(module))
        if name in IDENTITIES:
            return state
        if name.startswith("maxpool") and module.dilation in (1, (1, 1), (1, 1, 1)) and not module.return_indices:
            return State(0.0, Times(window_overlap(module), state.total))
        if name in ("flatten", "unflatten"):
            return State(0.0, state.total)
        return _activated(state, slope(name, module, (), {}))

    def _of_sum(self, n: fx.Node, sign: int) -> State | None:
        if len(n.args) != 2 or n.kwargs:
            return None
        left, right = n.args
        own = [node for node in (left, right) if node in self.states]
        if len(own) == 1:  # a constant
            state = self.states[own[0]]  # type: ignore[index]
            return state if own[0] is left or sign > 0 else replace(state, identity=-state.identity)
        a, b = self.states[left], self.states[right]  # type: ignore[index]
        parts = tuple(state.branch for state in (a, b) if state.branch is not NOTHING)
        bound = Sum(parts) if len(parts) > 1 else parts[0] if parts else NOTHING
        return State(a.identity + sign * b.identity, bound)

    def _of_product(self, n: fx.Node, name: str) -> State | None:
        if name == "neg":
            return _scaled(self.states[n.args[0]], -1.0)  # type: ignore[index]
        if len(n.args) != 2 or n.kwargs:
            return None
        own = [node for node in n.args if node in self.states]
        [other] = [node for node in n.args if node not in self.states] if len(own) == 1 else [None]
        if other is None or ("div" in name and own[0] is not n.args[0]):
            return None
        state = self.states[own[0]]  # type: ignore[index]
        if not isinstance(other, fx.Node) or not isinstance(self.env[other], Tensor):
            factor = float(self.env[other] if isinstance(other, fx.Node) else other)  # type: ignore[arg-type]
            return _scaled(state, 1 / factor if "div" in name else factor)
        value = self.env[other]
        derived = not isinstance(value, nn.Parameter) and self._of_parameters(other)
        return State(0.0, Times(Scale(value, "div" in name, derived), state.total))

    def _of_parameters(self, node: fx.Node) -> bool:
        """Whether a value is made of parameters."""
        waiting, seen = [node], set()
        while waiting:
            current = waiting.pop()
            if current.op == "call_module" or (
                current.op == "get_attr" and isinstance(self.fetch_attr(str(current.target)), nn.Parameter)
            ):
                return True
            waiting += [before for before in current.all_input_nodes if before not in seen]
            seen.update(current.all_input_nodes)
        return False


_OF_SHAPES = {"size", "dim", "numel", "nelement", "stride", "getattr", "len", "is_floating_point", "get_device"}
"""What tells of a tensor only what does not depend on its values."""


def _function_name(n: fx.Node) -> str:
    return str(n.target) if n.op == "call_method" else getattr(n.target, "__name__", str(n.target))


def _is_awake(n: fx.Node) -> bool:
    """Whether a dropout written as a function drops in evaluation too, as ``F.dropout(z)`` does."""
    try:
        given = inspect.signature(n.target).bind(*n.args, **n.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a method or a builtin
        return "drop" in _function_name(n)
    given.apply_defaults()
    return given.arguments.get("training", False) is not False


def _hooked(module: nn.Module) -> bool:
    """Whether hooks other than ours can change what a layer computes (as the older ``spectral_norm`` does)."""
    own = "iterconv.lipschitz.constraint"
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(getattr(hook, "__module__", "") != own for hook in hooks)


def _has_tensor(result: Any) -> bool:
    return isinstance(result, Tensor) or (isinstance(result, (tuple, list)) and any(map(_has_tensor, result)))


def _picks(index: Any) -> bool:
    """Whether an index can take entries more than once: anything but numbers and slices."""
    parts = index if isinstance(index, tuple) else (index,)
    return not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts)


@dataclass(frozen=True, eq=False)
class Applied:
    """A function or method with all its arguments but the first."""

    method: bool
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        """Call it."""
        function = getattr(type(x), self.target) if self.method else self.target
        return function(x, *self.args, **self.kwargs)


def _reduces_examples(n: fx.Node, dimensions: int) -> bool:
    """Whether a sum or mean goes over the examples too."""
    axes = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", n.kwargs.get("axis"))
    axes = axes if isinstance(axes, (tuple, list)) else (axes,)
    return not axes or not all(isinstance(axis, int) and axis % dimensions != 0 for axis in axes)


def _activated(state: State, constant: float | None) -> State | None:
    if constant is None:
        return None
    if state.operator is not None:  # slopes are diagonal too, and so change places with those of a batch norm
        return replace(state, bound=_times(constant, state.bound))
    return State(0.0, _times(constant, state.total))


def _times(factor: float, bound: Expression) -> Expression:
    return bound if factor == 1 else Times(factor, bound)


def _scaled(state: State, factor: float) -> State:
    bound = state.bound if state.branch is NOTHING else _times(abs(factor), state.bound)
    return State(state.identity * factor, bound, state.operator)


def _normed(state: State, norm: nn.Module, shape: tuple[int, ...]) -> State:
    if state.operator is None:
        return State(0.0, state.total, Operator(None, shape, right=(norm,)))
    if state.operator.layer is None:
        return replace(state, operator=replace(state.operator, right=(*state.operator.right, norm)))
    return replace(state, operator=replace(state.operator, left=(*state.operator.left, norm)))


def _own_slope(norm: nn.Module) -> float | None:
    """The constant of the activation inside of a batch norm (timm has such layers); 1 without one."""
    activation = getattr(norm, "act", None)
    if not isinstance(activation, nn.Module) or type(activation).__name__.lower() in IDENTITIES:
        return 1.0
    return slope(type(activation).__name__.lower(), activation, (), {})


def _is_activation(n: fx.Node, root: fx.GraphModule) -> bool:
    if not n.args or not isinstance(n.args[0], fx.Node):
        return False
    if n.op == "call_module":
        module = root.get_submodule(str(n.target))
        name = type(module).__name__.lower()
        return name in IDENTITIES or slope(name, module, (), {}) is not None
    name = _function_name(n).lower().rstrip("_")
    return n.op in ("call_function", "call_method") and (name in IDENTITIES or slope(name, None, (), {}) is not None)


def _uncovered_before(node: fx.Node, walk: _Walk) -> tuple[str, ...]:
    """Names of the parts without a bound that a tensor depends on."""
    seen, waiting = set(), [node]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += current.all_input_nodes
    return tuple(dict.fromkeys(name for other, name in walk.uncovered.items() if other in seen))


def _last_layer(node: fx.Node, walk: _Walk) -> nn.Module | None:
    """The layer whose output is added to z, with nothing behind it but identities."""
    while walk._name(node).lower().rstrip("_") in IDENTITIES:
        node = node.args[0]  # type: ignore[assignment]
    added = [n for n in node.args if isinstance(n, fx.Node) and n in walk.states and walk.states[n].identity == 0]
    rest = [n for n in node.args if n not in added]
    bare = all(isinstance(n, fx.Node) and n in walk.states and walk.states[n].branch is NOTHING for n in rest)
    if len(added) != 1 or not bare or "sub" in _function_name(node):
        return None
    current: Any = added[0]
    while isinstance(current, fx.Node) and len(current.users) == 1:
        module = walk.submodules_of(current)
        if isinstance(module, (*AFFINE_LAYERS, _BatchNorm)):
            return module
        if walk._name(current).lower().rstrip("_") not in IDENTITIES:
            return None
        current = current.args[0]
    return None


def _branch_function(root: fx.GraphModule, node: fx.Node) -> fx.GraphModule:
    """What the traced block adds to its input: the addition's result, less the input."""
    graph = root.graph
    z = next(n for n in graph.nodes if n.op == "placeholder")
    with graph.inserting_after(node):  # before anything behind it works in place
        difference = graph.call_function(python.sub, (node, z))
    [output] = [n for n in graph.nodes if n.op == "output"]
    output.args = (difference,)
    root.recompile()
    return root
