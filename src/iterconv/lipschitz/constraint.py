"""``constrain``: the Lipschitz constraint on the residual branches of any model.

The layer that a branch ends in gets a hook that divides its output by ``c = max(L^(f) / mu, 1)``. Nothing else about
the model changes, and exporting divides the layer's own weights instead.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from iterconv import paths
from iterconv.adapters import AdaptedModel, adapt
from iterconv.errors import InputError, check_range
from iterconv.lipschitz.bounds import Constant, Expression, Scale, Sum, Times
from iterconv.lipschitz.branches import Branch, find_branch
from iterconv.paths.untouched import untouched
from iterconv.spectral.convolutions import cast, random_start
from iterconv.spectral.linear_maps import LinearMap, Operator, converged, power_step, precision
from iterconv.tasks.batches import check_inputs, match_model

STEPS_AT_FIRST = 20
"""Power iterations before training, which makes one a step."""

NAME = "lipschitz_constraint"
"""Under which a block keeps its constraint."""


class Constraint(nn.Module):
    """What keeps one block's residual branch below mu; made by ``constrain``.

    In training, the first forward after the weights have changed moves the singular vectors one step, and c is
    differentiated through; further forwards (checkpointing, accumulation) repeat that step. In evaluation, the norms
    are iterated to convergence whenever weights or statistics have changed.

    Args:
        branch: The block's branch.
        lipschitz: mu.
    """

    def __init__(self, branch: Branch, lipschitz: float) -> None:
        super().__init__()
        self.lipschitz = lipschitz
        # Not registered: the branch's modules are the block's own.
        hidden = self.__dict__
        hidden["bound"], hidden["last"] = branch.bound, branch.last
        factors = list(_factors(branch.bound))
        hidden["operators"] = [factor for factor in factors if isinstance(factor, Operator)]
        hidden["scales"] = [factor.tensor for factor in factors if isinstance(factor, Scale)]
        for number, operator in enumerate(self.operators):
            if operator.layer is not None:
                with torch.no_grad():
                    linear = LinearMap(operator, precision(operator))
                    vector = random_start((1, *operator.shape), linear._zeros)
                    for _ in range(STEPS_AT_FIRST):
                        vector = power_step(linear, vector)[1]
                self.register_buffer(f"vector{number}", vector)
        hidden["memo"] = _Memo()
        assert branch.last is not None
        self._hook = branch.last.register_forward_hook(self._divide)

    operators: list[Operator]
    scales: list[Tensor]
    bound: Expression
    last: nn.Module
    memo: "_Memo"

    def train(self, mode: bool = True) -> "Constraint":
        """Switch between training and evaluation; c is computed anew, save by an evaluation that goes on."""
        if mode or self.training:
            hidden: Any = self.__dict__
            hidden["memo"] = _Memo()
        return super().train(mode)

    @torch.compiler.disable  # its bookkeeping is of no use in a graph
    def constant(self) -> Tensor:
        """c, in evaluation from converged norms, in training from one step of the power iteration."""
        modules = self._modules_of_operators()
        parameters = [*(parameter for module in modules for parameter in module.parameters()), *self.scales]
        if self.training:
            key = _state(parameters)
            if self.memo.starts is None or self.memo.starts[0] != key:
                self.memo.starts = (key, {name: vector.clone() for name, vector in self.named_buffers()})
            return (self.bound.value(self._stepped) / self.lipschitz).clamp(min=1)
        key = _state([*parameters, *(buffer for module in modules for buffer in module.buffers())])
        if self.memo.cached is None or self.memo.cached[0] != key:
            device = next(self.last.parameters()).device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                # A number: a tensor that is made inside of torch.func's transforms is of no use outside of them.
                self.memo.cached = (key, max(float(self.bound.value(converged)) / self.lipschitz, 1.0))
        return torch.tensor(self.memo.cached[1], dtype=torch.float64)

    def _stepped(self, operator: Operator) -> Tensor:
        if operator.layer is None:
            return LinearMap(operator, precision(operator))._right.abs().max()
        assert self.memo.starts is not None
        name = f"vector{self.operators.index(operator)}"
        start = self.memo.starts[1][name]
        with torch.autocast(start.device.type, enabled=False):
            linear = LinearMap(operator, start.dtype)
            y, x = power_step(linear, start)
            getattr(self, name).copy_(x)
            return linear.norm(y, x)

    def _modules_of_operators(self) -> list[nn.Module]:
        parts = {part: None for op in self.operators for part in (op.layer, *op.left, *op.right)}
        return [part for part in parts if isinstance(part, nn.Module)]

    def _divide(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output / self.constant().to(output.dtype)

    def export(self) -> None:
        """Divide the layer's weights by c, and be gone."""
        with torch.no_grad():
            constant = self.constant()
            for parameter in self.last.parameters():
                parameter.div_(constant.to(parameter.dtype))
        self._hook.remove()


class _Memo:
    """What a constraint remembers between forwards. It is no state: what is kept follows from the weights."""

    def __init__(self) -> None:
        self.cached: tuple[object, float] | None = None
        """c in evaluation, and the state of the weights that it belongs to."""
        self.starts: tuple[object, dict[str, Tensor]] | None = None
        """The singular vectors before the step in training, and the state of the weights at which it was made."""


class Constrained:
    """The handle of a constrained model; made by ``constrain``."""

    def __init__(self, places: list[tuple[int, int, nn.Module]]) -> None:
        self._places = places

    @property
    def constants(self) -> pd.DataFrame:
        """What each branch is divided by in evaluation: stage, block, bound (L^ of f itself), c."""
        rows = []
        for stage, block, module in self._places:
            constraint: Any = getattr(module, NAME)
            with untouched(module):
                bound = float(constraint.bound.value(converged))
                rows.append({"stage": stage, "block": block, "bound": bound, "c": float(constraint.constant())})
        return pd.DataFrame(rows)

    def export(self) -> None:
        """Leave plain layers behind that compute what the constrained model computes in evaluation."""
        for _, _, module in self._places:
            with untouched(module):
                getattr(module, NAME).export()
            delattr(module, NAME)
        self._places = []

    def remove(self) -> None:
        """Lift the constraint; the weights stay as they are."""
        for _, _, module in self._places:
            getattr(module, NAME)._hook.remove()
            delattr(module, NAME)
        self._places = []


def constrain(model: nn.Module, inputs: Any, *, lipschitz: float = 0.95, stages: Any = None) -> Constrained:
    """Keep the residual branches of a model's blocks below a Lipschitz constant, in training and evaluation.

    Each branch f becomes ``f / max(L^(f) / mu, 1)``: it is never scaled up, and its gradients know of the division.

    Source: Lippl et al., Sec. 4.2, E.1 (improperly convergent). Departure: diag(BN) takes the running variance in
    training too, so that a foreign batch norm can stay as it is.

    Args:
        model: Any residual model whose branches are made of linear layers, convolutions, batch norms, poolings and
            activations; changed in place.
        inputs: A batch that it takes. The bound holds for feature maps of the size that these lead to.
        lipschitz: mu, above 0.
        stages: As for ``iterconv.adapt``; found if left out.

    Returns:
        A handle: ``constants``, ``export()`` to plain layers, ``remove()``.

    Raises:
        InputError: If mu is not above 0 and finite, the inputs are not finite, a branch has parts without a bound, does
            not end in a linear layer, convolution or batch norm with weights, or is constrained already, or if that
            layer is shared; then nothing has been changed.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__} is not a torch.nn.Module; pass the model itself")
    lipschitz = check_range("lipschitz", lipschitz, "(0, inf)", "the paper has 0.95")
    check_inputs(inputs, 0)
    if any(hasattr(stage, "lipschitz") for stage in getattr(model, "stages", ())):
        raise InputError("this model's stages are constrained by construction; build it with residual='ordinary'")
    found: dict[tuple[int, int], Branch] = {}
    inputs = match_model(inputs, model)
    adapted = model if isinstance(model, AdaptedModel) else adapt(model, inputs, stages=stages)
    if adapted is model and stages is not None:
        raise InputError("the model is adapted already, with stages of its own; pass adapted.model to name others")
    with untouched(model):
        for number, block, z, _, _ in paths.block_inputs(adapted, inputs):
            found[number, block] = _checked(adapted.found[number].blocks[block], z, f"block {block} of stage {number}")
    _check_sharing(model, {adapted.found[number].blocks[block]: branch for (number, block), branch in found.items()})
    places = []
    for (number, block), branch in found.items():
        module = adapted.found[number].blocks[block]
        if hasattr(module, NAME):  # the same one is executed again
            continue
        module.add_module(NAME, Constraint(branch, lipschitz).train(module.training))
        places.append((number, block, module))
    return Constrained(places)


def _checked(module: nn.Module, z: Tensor, name: str) -> Branch:
    kind = f"{name} ({type(module).__name__})"
    if hasattr(module, NAME):
        raise InputError(f"{kind} is constrained already; remove() its handle first")
    branch = find_branch(module, z[:1])
    if branch.uncovered:
        raise InputError(f"{kind} has parts without a bound: {', '.join(branch.uncovered)}; name other stages=")
    if branch.last is None or not _scales_with_its_weights(branch.last):
        raise InputError(f"the branch of {kind} does not end in a layer whose weights scale it; let it end in one")
    factors = list(_factors(branch.bound))
    if any(isinstance(factor, Scale) and factor.derived for factor in factors):
        raise InputError(
            f"{kind} multiplies by what is made of parameters, which training would change; use a parameter"
        )
    operators = [factor for factor in factors if isinstance(factor, Operator)]
    layers = [part for op in operators for part in (op.layer, *op.left, *op.right) if isinstance(part, nn.Module)]
    if len(set(layers)) < len(layers):
        raise InputError(f"{kind} uses a layer twice in its branch; use a layer of its own for each place")
    return branch


def _state(tensors: Sequence[Tensor]) -> list[Any]:
    """What differs when tensors have been changed, replaced or moved."""
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    # Changes by way of ``tensor.data``, as of averaged weights, leave no other trace than the values.
    marks = [
        cast(mark, torch.float64) for tensor in floats for mark in (tensor.sum(), torch.linalg.vector_norm(tensor))
    ]
    places = [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in tensors]
    return [*places, *torch.stack(marks).tolist()] if marks else places


def _check_sharing(model: nn.Module, branches: dict[nn.Module, Branch]) -> None:
    """Refuse blocks whose last layer, or its weights, something else uses too: that would be divided as well."""
    for block, branch in branches.items():
        assert branch.last is not None
        own = set(map(id, branch.last.parameters()))
        owners = [module for module in model.modules() if own & set(map(id, module._parameters.values()))]
        others = [other for other in branches if other is not block and branch.last in set(other.modules())]
        if owners != [branch.last] or others:
            raise InputError(
                f"the layer that a branch of {type(block).__name__} ends in ({type(branch.last).__name__}) or its "
                "weights are used elsewhere too; give each block a last layer of its own"
            )


def _scales_with_its_weights(layer: nn.Module) -> bool:
    """Whether halving its parameters halves its output, bit by bit."""
    named = dict(layer.named_parameters())
    if not named or type(layer).__name__.startswith("Parametrized"):
        return False
    halves = {name: parameter.detach() / 2 for name, parameter in named.items()}
    channels = getattr(layer, "in_channels", getattr(layer, "in_features", getattr(layer, "num_features", 1)))
    dimensions = len(getattr(layer, "kernel_size", ())) or (2 if "2d" in type(layer).__name__.lower() else 0)
    sizes = [1 + 8 * (dimensions > 0)] * dimensions
    x = torch.randn(2, channels, *sizes, generator=torch.Generator().manual_seed(0)).to(next(iter(named.values())))
    with untouched(layer):
        return torch.equal(functional_call(layer, halves, (x,)), layer(x) / 2)


def _factors(expression: Expression) -> Iterator[Operator | Scale]:
    """The operators and scales in a bound, each once."""
    if isinstance(expression, Times):
        yield from _factors(expression.of)
        if not isinstance(expression.factor, float):
            yield expression.factor
    elif isinstance(expression, Sum):
        yield from dict.fromkeys(factor for part in expression.parts for factor in _factors(part))
    else:
        assert isinstance(expression, Constant)


def constant_of(block: nn.Module) -> float:
    """What a block's branch is divided by in evaluation; 1 if it is not constrained."""
    constraint: Any = getattr(block, NAME, None)
    return 1.0 if constraint is None else float(constraint.constant())
