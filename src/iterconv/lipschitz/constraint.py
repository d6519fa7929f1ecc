"""``constrain``: the Lipschitz constraint on the residual branches of any model.

The layer that a branch ends in gets a hook that divides its output by ``c = max(L^(f) / mu, 1)``. Nothing else about
the model changes, and exporting divides the layer's own weights instead.
"""

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from iterconv import paths
from iterconv.adapters import AdaptedModel, adapt
from iterconv.errors import InputError, check_range
from iterconv.lipschitz.bounds import Expression
from iterconv.lipschitz.branches import Branch, find_branch
from iterconv.lipschitz.rules import scales_with_its_weights
from iterconv.paths.untouched import untouched
from iterconv.spectral.fingerprint import fingerprint
from iterconv.spectral.iteration import cast, power_iteration
from iterconv.spectral.linear_maps import LinearMap, LinearPart, converged, diagonal
from iterconv.tasks.batches import check_inputs, match_model

STEPS_AT_FIRST = 20
"""The number of power iterations before training, which makes one a step."""

CONSTRAINT_ATTRIBUTE = "lipschitz_constraint"
"""The attribute under which a block keeps its constraint."""


class _Memo:
    """The memory of a constraint between forwards. It is not a state: what is kept follows from the weights."""

    def __init__(self) -> None:
        self.values: list[float] | None = None
        """Marks of the weights' values; read after ``train()`` and ``eval()`` only, as that waits for the device."""
        self.cached: tuple[object, float] | None = None
        """The constant c in evaluation, behind the state of the weights that it belongs to."""
        self.starts: tuple[object, dict[str, Tensor]] | None = None
        """The singular vectors before the step in training, behind the fingerprint of the weights that it was for."""


class Constraint(nn.Module):
    """The constraint that keeps one block's residual branch below mu; made by ``constrain``.

    In training, the first forward after the weights have changed moves the singular vectors one step, and c is
    differentiated through; further forwards (checkpointing, accumulation) repeat that step. In evaluation, the norms
    are iterated to convergence whenever weights or statistics have changed. Changes are seen by the weights' versions
    and by the steps of optimizers; writes through ``tensor.data`` are unseen until ``train()`` or ``eval()`` is called.

    Args:
        branch: The block's branch.
        lipschitz: The constant mu.
    """

    parts: list[LinearPart]
    scales: list[Tensor]
    bound: Expression
    last: nn.Module

    def __init__(self, branch: Branch, lipschitz: float) -> None:
        super().__init__()
        assert branch.last is not None
        self.lipschitz = lipschitz
        self.memo = _Memo()
        # Not registered: the branch's modules and parameters are the block's own.
        self.__dict__.update(bound=branch.bound, last=branch.last, parts=branch.parts, scales=branch.scales)
        for number, part in enumerate(self.parts):
            if part.layer is not None:
                with torch.no_grad():
                    linear = LinearMap(part, part.precision)
                vector = power_iteration(linear, linear.start(), steps=STEPS_AT_FIRST)[1]
                self.register_buffer(f"vector{number}", vector)
        self._hook = branch.last.register_forward_hook(self._divide)

    def train(self, mode: bool = True) -> "Constraint":
        """Switch between training and evaluation, and look for weights that were written through ``tensor.data``."""
        if mode or self.training:
            self.memo = _Memo()
        self.memo.values = None
        return super().train(mode)

    @torch._disable_dynamo  # its bookkeeping is of no use in a graph
    def constant(self) -> Tensor:
        """Return c, in evaluation from converged norms, in training from one step of the power iteration."""
        modules = {module: None for part in self.parts for module in part.modules}
        watched = [*(parameter for module in modules for parameter in module.parameters()), *self.scales]
        memo = self.memo
        if self.training:
            key = fingerprint(watched)
            if memo.starts is None or memo.starts[0] != key:
                memo.starts = (key, {name: vector.clone() for name, vector in self.named_buffers()})
            return (self.bound.value(self._step) / self.lipschitz).clamp(min=1)
        watched += [buffer for module in modules for buffer in module.buffers()]
        if memo.values is None:
            memo.values = _values(watched)
        state = (fingerprint(watched), memo.values)
        if memo.cached is None or memo.cached[0] != state:
            device = next(self.last.parameters()).device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                # A number: a tensor that is made inside of torch.func's transforms is of no use outside of them.
                memo.cached = (state, max(float(self.bound.value(converged)) / self.lipschitz, 1.0))
        return torch.tensor(memo.cached[1], dtype=torch.float64)

    def _step(self, part: LinearPart) -> Tensor:
        """Return a part's norm after one power iteration from the vectors before this step of training."""
        if part.layer is None:
            return diagonal(part.right, part.precision).abs().max()
        assert self.memo.starts is not None
        name = f"vector{self.parts.index(part)}"
        start = self.memo.starts[1][name]
        with torch.autocast(start.device.type, enabled=False):
            # In half precision, one step would be lost in rounding.
            linear = LinearMap(part, start.dtype)
            y, x, _ = power_iteration(linear, start)
            getattr(self, name).copy_(x)
            return linear.norm(y, x)

    def _divide(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output / self.constant().to(output.dtype)

    _divide.divides_branch = True  # type: ignore[attr-defined]  # the rules accept this hook on a layer

    def export(self) -> None:
        """Fold 1/c into the last layer's weights; the hook has to be removed then."""
        with torch.no_grad():
            constant = self.constant()
            for parameter in self.last.parameters():
                parameter.div_(constant.to(parameter.dtype))


class Constrained:
    """The handle of a constrained model; made by ``constrain``."""

    def __init__(self, places: list[tuple[int, int, nn.Module]]) -> None:
        self._places = places

    @property
    def constants(self) -> pd.DataFrame:
        """A table of what each branch is divided by in evaluation: stage, block, bound (L^ of f itself), c."""
        rows = []
        for stage, block, module in self._places:
            constraint: Any = getattr(module, CONSTRAINT_ATTRIBUTE)
            with untouched(module):
                bound = float(constraint.bound.value(converged))
                rows.append({"stage": stage, "block": block, "bound": bound, "c": float(constraint.constant())})
        return pd.DataFrame(rows)

    def export(self) -> None:
        """Leave plain layers behind that compute what the constrained model computes in evaluation."""
        for _, _, module in self._places:
            with untouched(module):
                getattr(module, CONSTRAINT_ATTRIBUTE).export()
        self.remove()

    def remove(self) -> None:
        """Lift the constraint; the weights stay as they are."""
        for _, _, module in self._places:
            getattr(module, CONSTRAINT_ATTRIBUTE)._hook.remove()
            delattr(module, CONSTRAINT_ATTRIBUTE)
        self._places = []


def constrain(model: nn.Module, inputs: Any, *, lipschitz: float = 0.95, stages: Any = None) -> Constrained:
    """Keep the residual branches of a model's blocks below a Lipschitz constant, in training and evaluation.

    Each branch f becomes ``f / max(L^(f) / mu, 1)``: it is never scaled up, and its gradients know of the division.

    Source: Lippl et al., Sec. 4.2, E.1 (improperly convergent). Departure: diag(BN) takes the running variance in
    training too, so that a foreign batch norm can stay as it is.

    Args:
        model: Any residual model whose branches are made of linear layers, convolutions, batch norms, average poolings
            and activations, or of layers with a registered rule; changed in place.
        inputs: A batch that it takes. The bound holds for feature maps of the size that these lead to.
        lipschitz: The constant mu, above 0.
        stages: The stages, named as for ``iterconv.adapt``; found if left out.

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
    inputs = match_model(inputs, model)
    # Stages that are constrained by construction have been refused above, so every other model is adapted, the paper's
    # networks too.
    adapted = model if isinstance(model, AdaptedModel) else adapt(model, inputs, stages=stages)
    if adapted is model and stages is not None:
        raise InputError("the model is adapted already, with stages of its own; pass adapted.model to name others")
    found: list[tuple[int, int, nn.Module, Branch]] = []
    with untouched(model):
        for number, block, z, _, stage in paths.block_inputs(adapted, inputs):
            module = stage.blocks[block]
            branch = _check_branch(module, z, f"block {block + 1} of stage {number + 1}")
            found.append((number, block, module, branch))
    # Everything is checked before the first block is changed.
    _check_sharing(model, {module: branch for _, _, module, branch in found})
    places = []
    for number, block, module, branch in found:
        if hasattr(module, CONSTRAINT_ATTRIBUTE):  # the same one is executed again
            continue
        module.add_module(CONSTRAINT_ATTRIBUTE, Constraint(branch, lipschitz).train(module.training))
        places.append((number, block, module))
    return Constrained(places)


def _check_branch(module: nn.Module, z: Tensor, name: str) -> Branch:
    kind = f"{name} ({type(module).__name__})"
    if hasattr(module, CONSTRAINT_ATTRIBUTE):
        raise InputError(f"{kind} is constrained already; remove() its handle first")
    branch = find_branch(module, z[:1])
    if branch.uncovered:
        raise InputError(f"{kind} has parts without a bound: {', '.join(branch.uncovered)}; name other stages=")
    if branch.last is None or not scales_with_its_weights(branch.last):
        raise InputError(f"the branch of {kind} does not end in a layer whose weights scale it; let it end in one")
    layers = [module for part in branch.parts for module in part.modules]
    if len(set(layers)) < len(layers):
        raise InputError(f"{kind} uses a layer twice in its branch; use a layer of its own for each place")
    return branch


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


def _values(tensors: list[Tensor]) -> list[float]:
    """Return two numbers for each tensor, which change when its values are written in whatever way."""
    floats = [cast(tensor.detach(), torch.float64) for tensor in tensors if tensor.is_floating_point()]
    marks = [mark for tensor in floats for mark in (tensor.sum(), torch.linalg.vector_norm(tensor))]
    return torch.stack(marks).tolist() if marks else []


def constant_of(block: nn.Module) -> float:
    """Return what a block's branch is divided by in evaluation; 1 if it is not constrained."""
    constraint: Any = getattr(block, CONSTRAINT_ATTRIBUTE, None)
    return 1.0 if constraint is None else float(constraint.constant())
