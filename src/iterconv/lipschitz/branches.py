"""The residual branch of any block: found in its traced forward, and bounded part by part.

A block is traced with torch.fx and run once. Each tensor on the way is ``z + g(z)`` or ``g(z)``, with the block's input
z and a bound on the Lipschitz constant of g. The branch is g of the tensor that the block hands on.
"""

import inspect
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from iterconv.errors import InputError
from iterconv.lipschitz.bounds import NOTHING, Constant, Expression, Times, Traced
from iterconv.lipschitz.rules import FUNCTIONS, Slope, identity, is_layer, rule_of
from iterconv.spectral.linear_maps import LinearPart

_SUMS: set[Any] = {operator.add, torch.add, Tensor.add, Tensor.add_}
_PRODUCTS: set[Any] = {operator.mul, torch.mul, Tensor.mul, Tensor.mul_}


@dataclass(frozen=True, eq=False)
class Branch:
    """The residual branch f of a block z + f(z), or act(z + f(z))."""

    function: fx.GraphModule
    """f itself."""
    bound: Expression
    uncovered: tuple[str, ...]
    """The names of the parts without a bound."""
    last: nn.Module | None
    """The layer that f ends in, if it ends in one that is used nowhere else."""

    @property
    def parts(self) -> list[LinearPart]:
        """The linear parts in the bound, each once."""
        return list(dict.fromkeys(factor for factor in self.bound.factors() if isinstance(factor, LinearPart)))

    @property
    def scales(self) -> list[Tensor]:
        """The parameters that multiply in the bound, each once."""
        return list(dict.fromkeys(factor for factor in self.bound.factors() if isinstance(factor, Tensor)))


def find_branch(block: nn.Module, z: Tensor) -> Branch:
    """Trace a block and find its residual branch.

    Args:
        block: A module in evaluation mode that takes one tensor.
        z: A batch of what comes in. The block hands on its output, or the first of several.

    Returns:
        The branch.

    Raises:
        InputError: If the block can't be traced, makes NaN of the batch, or adds nothing to its input.
    """
    # The trace shows which functions are called, and running it shows the shapes, on which rules depend.
    root = _trace(block)
    walk = _Walk(root)
    _check_trace(block, walk, z)
    [output] = [node for node in root.graph.nodes if node.op == "output"]
    node: Any = _first(output.args[0])
    # Behind the addition there may be an activation, as in the first ResNets.
    while isinstance(node, fx.Node) and walk.is_elementwise(node) and not walk.traced[node].has_input:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node not in walk.traced or not walk.traced[node].has_input:
        raise InputError(f"{type(block).__name__} adds nothing to its input: no z + f(z) is found in its forward")
    found = walk.traced[node]
    return Branch(_branch_function(root, walk.z, node), found.branch, found.uncovered, found.last)


def opaque_parts(block: nn.Module) -> list[str]:
    """Return the classes of a block's parts that no bound covers."""
    return list(dict.fromkeys(type(module).__name__ for module in block.modules() if _is_opaque(module)))


def _is_opaque(module: nn.Module) -> bool:
    """Tell whether a module is a norm without fixed statistics, or attention: no useful constant bounds it."""
    name = type(module).__name__.lower()
    return not is_layer(module) and re.search("attention|norm(2d)?$|(layer|group|rms)norm", name) is not None


def _first(result: Any) -> Any:
    """Return what a block hands on: its result, or the first part of it."""
    if isinstance(result, Mapping):
        return next(iter(result.values()), None)
    if isinstance(result, (tuple, list)):
        return result[0] if result else None
    return result


class _Tracer(fx.Tracer):
    """Follows a forward down to the layers that have rules, and those that can have none."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_layer(m) or _is_opaque(m) or super().is_leaf_module(m, module_qualified_name)


def _trace(block: nn.Module) -> fx.GraphModule:
    parameters = list(inspect.signature(block.forward).parameters.values())
    # Only one tensor comes in, so that all further arguments have to have defaults, which become constants of the
    # trace.
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    defaults = {p.name: p.default for p in parameters[1:] if p.kind not in variadic}
    try:
        if any(value is inspect.Parameter.empty for value in defaults.values()):
            raise TypeError("it takes more than one tensor")
        return fx.GraphModule(block, _Tracer().trace(block, concrete_args=defaults or None))
    except Exception as problem:  # whatever a foreign forward does that can't be traced
        raise InputError(f"the forward of {type(block).__name__} can't be traced") from problem


def _check_trace(block: nn.Module, walk: "_Walk", z: Tensor) -> None:
    """Raise ``InputError`` unless the traced forward computes bit by bit what the block does, or if that is NaN."""
    kind = type(block).__name__
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # A rectifier that works in place shows in noise, though not in what comes from another one.
        for number, given in enumerate((z, torch.randn_like(z))):
            results = []
            for run in (block, walk.run):
                torch.manual_seed(1)
                results.append(_first(run(given.clone())))
            own, traced = results
            if not isinstance(own, Tensor) or not isinstance(traced, Tensor):
                continue
            if number == 0 and bool(own.isnan().any()):
                raise InputError(f"{kind} makes NaN of this batch; look for NaN in the batch and the weights")
            if not torch.equal(own.nan_to_num(), traced.nan_to_num()):
                raise InputError(
                    f"the traced forward of {kind} computes something else, as where something is changed in place"
                )


class _Walk(fx.Interpreter):
    """Runs a traced block, and notes what is known of each tensor that depends on its input."""

    def __init__(self, root: fx.GraphModule) -> None:
        super().__init__(root)
        self.traced: dict[fx.Node, Traced] = {}
        self.z = next(node for node in root.graph.nodes if node.op == "placeholder")

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        # All work on copies, so that what works in place changes nothing else here: where the block's own output
        # depends on such a change, it differs from this one, and the block is refused.
        given = super().fetch_args_kwargs_from_env(n)
        return fx.node.map_aggregate(given, lambda value: value.clone() if isinstance(value, Tensor) else value)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        inputs = [node for node in n.all_input_nodes if node in self.traced]
        if n is self.z:
            self.traced[n] = Traced(True, NOTHING)
        elif inputs and n.op != "output":
            x = self._apply_rule(n, result) or self._leave_uncovered(n, inputs)
            # A layer that something else uses too must not be divided.
            self.traced[n] = replace(x, last=None) if len(n.users) > 1 and not x.has_input else x
        return result

    def is_elementwise(self, n: fx.Node) -> bool:
        """Tell whether a node is an activation of a tensor that depends on z, or does nothing to it."""
        rule = self._rule(n)
        return n in self.traced and (rule is identity or isinstance(rule, Slope))

    def _rule(self, n: fx.Node) -> Any:
        if n.op == "call_module":
            return rule_of(self._module(n))
        return FUNCTIONS.get(_function(n))

    def _module(self, n: fx.Node) -> nn.Module:
        return self.fetch_attr(str(n.target))

    def _apply_rule(self, n: fx.Node, result: Any) -> Traced | None:
        """Return what is known of a node's tensor, or None if no rule covers it."""
        given = [x for x in n.args if isinstance(x, fx.Node)]
        own = [x for x in given if x in self.traced]
        if not own or not all(isinstance(value, Tensor) for value in (result, *(self.env[x] for x in given))):
            return None
        function = _function(n)
        if function in _SUMS or function in _PRODUCTS:
            # A tensor that is broadcast to a larger one gets a larger norm.
            if (
                len(given) != 2
                or n.args != tuple(given)
                or n.kwargs
                or any(self.env[x].shape != result.shape for x in own)
            ):
                return None
            return self._add(own) if function in _SUMS else self._multiply(own, given)
        rule = self._rule(n)
        if rule is None or n.all_input_nodes != own or (n.op == "call_module" and len(n.args) + len(n.kwargs) > 1):
            return None
        layer = self._module(n) if n.op == "call_module" else _arguments(n)
        return rule(layer, self.traced[own[0]], tuple(self.env[own[0]].shape[1:]))

    def _add(self, own: list[fx.Node]) -> Traced | None:
        return self.traced[own[0]] + self.traced[own[1]] if len(own) == 2 else None

    def _multiply(self, own: list[fx.Node], given: list[fx.Node]) -> Traced | None:
        """Multiply by a parameter; nothing else is known to be followed as it changes."""
        factors = [self.env[x] for x in given if x not in own]
        if len(factors) != 1 or not isinstance(factors[0], nn.Parameter):
            return None
        x = self.traced[own[0]]
        return x.then(Times(x.total, factors[0]))

    def _leave_uncovered(self, n: fx.Node, inputs: list[fx.Node]) -> Traced:
        name = type(self._module(n)).__name__ if n.op == "call_module" else _function_name(n)
        before = [other for node in inputs for other in self.traced[node].uncovered]
        return Traced(False, Constant(math.nan), uncovered=tuple(dict.fromkeys((*before, name))))


def _function(n: fx.Node) -> Any:
    """Return the function or method that a node calls."""
    return getattr(Tensor, str(n.target), None) if n.op == "call_method" else n.target


def _function_name(n: fx.Node) -> str:
    return str(n.target) if n.op == "call_method" else getattr(n.target, "__name__", str(n.target))


def _arguments(n: fx.Node) -> SimpleNamespace | None:
    """Return the arguments of a function, which have the names of the attributes of the layer that it stands for."""
    try:
        given = inspect.signature(n.target).bind(*n.args, **n.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # builtins have no signatures; none of those with a rule has a slope to be read
        return None
    given.apply_defaults()
    return SimpleNamespace(**given.arguments)


def _branch_function(root: fx.GraphModule, z: fx.Node, node: fx.Node) -> fx.GraphModule:
    """Make the traced block return what it adds to its input."""
    graph = root.graph
    with graph.inserting_after(z):
        own = graph.call_method("clone", ())  # the block may change its input in place
    z.replace_all_uses_with(own)
    own.args = (z,)
    with graph.inserting_after(node):  # before anything behind it works in place
        difference = graph.call_function(operator.sub, (node, z))
    [output] = [n for n in graph.nodes if n.op == "output"]
    output.args = (difference,)
    root.recompile()
    return root
