"""Soft gradient coupling: a dial between an ordinary network (0) and a weight-tied one (1).

Coupling changes neither the network nor the loss. Just before the optimizer uses the gradients, those of
each coupled block become a mixture of the gradients of all blocks in its group.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from iterconv._typing import Float
from iterconv.errors import InputError
from iterconv.options import Kernel

Group = Sequence[nn.Module]


def coupling_matrix(
    num_blocks: int, strength: float, kernel: Kernel = "uniform", normalise: bool = True
) -> Float[Tensor, "blocks blocks"]:
    """The mixture that each block's gradient becomes: row t holds kappa(s, t) over s.

    Source: Lippl et al., Sec. 4.1 (uniform), Sec. D.2 (triangular). Departure: the rows of the printed
    triangular kernel do not sum to 1 (at strength 1 it is the sum, not the mean), so that the learning rate
    would mean something else than for the uniform one; they are normalised unless ``normalise=False``.

    Args:
        num_blocks: T, the size of the group.
        strength: lambda, in [0, 1].
        kernel: ``"uniform"`` couples all blocks alike, ``"triangular"`` near ones more.
        normalise: Whether the rows of the triangular kernel sum to 1.

    Returns:
        The T x T matrix in double precision.

    Raises:
        InputError: If the strength is not in [0, 1] or the kernel unknown.
    """
    _check_dial(strength, kernel)
    if kernel == "uniform":
        eye = torch.eye(num_blocks, dtype=torch.float64)
        return (1 - strength) * eye + strength / num_blocks
    if strength == 0:
        return torch.eye(num_blocks, dtype=torch.float64)
    position = torch.arange(num_blocks, dtype=torch.float64)
    slope = 2 * (1 - strength) / num_blocks if strength >= 0.5 else 1 / (2 * strength * num_blocks)
    matrix = (1 - slope * (position[:, None] - position).abs()).clamp(min=0)
    return matrix / matrix.sum(1, keepdim=True) if normalise else matrix


class Coupling:
    """The handle of a coupled optimizer; made by ``couple``."""

    def __init__(
        self, optimizer: Optimizer, groups: Sequence[Group], strength: float, kernel: Kernel, normalise: bool
    ) -> None:
        self._tensors = [_parallel_parameters(group, number) for number, group in enumerate(groups)]
        _check_ownership(self._tensors, optimizer)
        self._set(strength, kernel, normalise)
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    @property
    def strength(self) -> float:
        """lambda, in [0, 1]; may be set at any time during training."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._set(value, self.kernel, self.normalise)

    def _set(self, strength: float, kernel: Kernel, normalise: bool) -> None:
        _check_dial(strength, kernel)
        self._strength, self.kernel, self.normalise = float(strength), kernel, normalise
        sizes = {len(tensors[0]) for tensors in self._tensors}
        self._matrices = {size: coupling_matrix(size, strength, kernel, normalise) for size in sizes}

    def apply_(self) -> None:
        """Couple the gradients that are there now; the optimizer's step does this by itself.

        Raises:
            InputError: If some blocks of a group have a gradient and others have none, or one is sparse.
        """
        if self._strength == 0:  # plain training, bit for bit
            return
        for gradients in list(self._gradients()):  # all are checked before any changes
            _mix_(gradients, self._strength, self.kernel, self._matrices[len(gradients)])

    def _gradients(self) -> Iterator[list[Tensor]]:
        """The gradients that are there, those that correspond together."""
        for number, group in enumerate(self._tensors):
            for tensors in group:
                gradients = [tensor.grad for tensor in tensors]
                present = [g for g in gradients if g is not None]
                if not present:
                    continue
                if len(present) < len(gradients):
                    missing = next(i for i, g in enumerate(gradients) if g is None)
                    raise InputError(
                        f"block {missing} of coupling group {number} has no gradient while others have; "
                        "freeze all blocks of a group or none, and use every block in the loss"
                    )
                if any(gradient.layout != torch.strided for gradient in present):
                    raise InputError("sparse gradients can't be coupled; use dense ones (sparse=False)")
                yield present

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(argument) for argument in (*args, *kwargs.values())):
            raise InputError(
                f"{type(optimizer).__name__}.step was given a closure, which makes new gradients after the "
                "coupling; back-propagate first and call step() without a closure"
            )
        self.apply_()

    def remove(self) -> None:
        """Uncouple the optimizer."""
        self._hook.remove()

    def __enter__(self) -> "Coupling":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """The dial's position, to be saved with a run."""
        return {
            "strength": self._strength,
            "kernel": self.kernel,
            "normalise": self.normalise,
            "group_sizes": [len(group[0]) for group in self._tensors],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the dial where ``state_dict`` found it.

        Args:
            state: From ``state_dict`` of a handle on equal groups.

        Raises:
            InputError: If it is not such a state, or of other groups.
        """
        mine = self.state_dict()
        if not isinstance(state, dict) or state.keys() != mine.keys():
            raise InputError(f"coupling state has to have the keys {', '.join(mine)}; pass what state_dict() returned")
        if state["group_sizes"] != mine["group_sizes"]:
            raise InputError(
                f"coupling state is of groups of {state['group_sizes']} blocks, these are of {mine['group_sizes']}"
            )
        self._set(state["strength"], state["kernel"], state["normalise"])


def couple(
    optimizer: Any,
    groups: Sequence[Group],
    strength: float,
    kernel: Kernel = "uniform",
    *,
    normalise: bool = True,
) -> Coupling:
    """Couple the gradients of equally built modules at every step of an optimizer.

    The coupling happens when ``optimizer.step()`` is called, so after back-propagation, accumulation and
    averaging over devices. Strength 0 is plain training bit for bit; strength 1 keeps modules that start
    equal bit-identical. Norm scales and biases are parameters and so coupled; running statistics are not.

    Source: Lippl et al., Sec. 4.1, D.2, D.3.

    Args:
        optimizer: Any torch optimizer that is stepped without a closure, or Fabric's or Accelerate's wrapper of one.
        groups: Lists of modules; those of one list have equal structure and are coupled to each other.
        strength: lambda, in [0, 1].
        kernel: ``"uniform"`` couples all blocks alike, ``"triangular"`` near ones more.
        normalise: Whether the rows of the triangular kernel sum to 1 (see ``coupling_matrix``).

    Returns:
        A handle, to change the strength, save its state, or uncouple; also a context manager.

    Raises:
        InputError: If the strength or kernel is unknown, a group has fewer than two modules or modules of
            different structure, a module or parameter occurs twice, or the optimizer lacks a parameter.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Fabric and Accelerate wrap torch's
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"{type(optimizer).__name__} is no torch optimizer; pass a torch.optim.Optimizer")
    return Coupling(optimizer, groups, strength, kernel, normalise)


class ParameterCount(NamedTuple):
    """How many parameters a softly tied network has."""

    raw: int
    """All parameters."""
    tied: int
    """What is left when each group shares one set of weights."""
    effective: float
    """The tied count plus the normalised deviations of all blocks from their mean."""
    mean_deviation: float
    """Mean absolute normalised deviation over the coupled entries; 0 = tied."""


@torch.no_grad()
def effective_parameter_count(model: nn.Module, groups: Sequence[Group]) -> ParameterCount:
    """Count parameters by how much the blocks of each group differ.

    ``EPC = N_uncoupled + sum_s [N(mean_s) + sum_l |D_l|_1]`` with ``D_l = (W_l - mean_s) / sigma(W_s)``.

    Source: Lippl et al., Sec. C.1. Choice: sigma is the population standard deviation over all blocks and
    entries of one parameter tensor, and 0/0 = 0.

    Args:
        model: The model that the groups belong to.
        groups: As for ``couple``.

    Returns:
        Raw, tied and effective counts and the mean deviation; fully tied blocks give ``effective == tied``
        exactly.

    Raises:
        InputError: If the groups don't fit together (as for ``couple``) or hold parameters of another model.
    """
    tensors = [_parallel_parameters(group, number) for number, group in enumerate(groups)]
    own = {id(parameter) for parameter in model.parameters()}
    if any(id(p) not in own for group in tensors for parallel in group for p in parallel):
        raise InputError(f"the groups hold parameters that are not {type(model).__name__}'s; pass its own blocks")
    _check_once(tensors)
    raw = sum(parameter.numel() for parameter in model.parameters())
    coupled = sum(len(parallel) * parallel[0].numel() for group in tensors for parallel in group)
    means = sum(parallel[0].numel() for group in tensors for parallel in group)
    deviation = math.fsum(_total_deviation(parallel) for group in tensors for parallel in group)
    tied = raw - coupled + means
    return ParameterCount(raw, tied, tied + deviation, deviation / coupled if coupled else 0.0)


def _total_deviation(parallel: Sequence[Tensor]) -> float:
    weights = torch.stack([p.detach().double() for p in parallel])
    from_first = weights - weights[0]  # exactly 0 for tied blocks, where the mean could round
    deviations = from_first - from_first.mean(0)
    total = deviations.abs().sum().item()
    return total / weights.std(correction=0).item() if total else 0.0


def _mix_(gradients: list[Tensor], strength: float, kernel: Kernel, matrix: Tensor) -> None:
    stacked = torch.stack(gradients)
    if strength == 1:  # all rows of the kernel are equal: one mixture, copied, keeps tied blocks bit-identical
        mixture = (stacked.mean(0) * (matrix[0].sum() if kernel == "triangular" else 1)).to(stacked.dtype)
        torch._foreach_copy_(gradients, [mixture] * len(gradients))
    elif kernel == "uniform":
        torch._foreach_copy_(gradients, list(stacked.lerp(stacked.mean(0), strength)))
    else:
        mixed = matrix.to(stacked) @ stacked.flatten(1)
        torch._foreach_copy_(gradients, list(mixed.view_as(stacked)))


def _parallel_parameters(group: Group, number: int) -> list[list[nn.Parameter]]:
    """The parameters of one group's modules, those that correspond side by side."""
    if len(group) < 2:
        raise InputError(f"coupling group {number} has {len(group)} module(s); coupling needs at least two")
    named = [dict(module.named_parameters()) for module in group]
    shapes = [{name: tuple(p.shape) for name, p in parameters.items()} for parameters in named]
    for block, (module, shape) in enumerate(zip(group, shapes, strict=True)):
        if shape != shapes[0]:
            different = sorted(n for n in {**shape, **shapes[0]} if shape.get(n) != shapes[0].get(n))
            raise InputError(
                f"module {block} of coupling group {number} ({type(module).__name__}) is built differently from "
                f"module 0 in {different[0]}: {shape.get(different[0])} against {shapes[0].get(different[0])}"
            )
    if not shapes[0]:
        raise InputError(f"the modules of coupling group {number} have no parameters to couple")
    return [[parameters[name] for parameters in named] for name in shapes[0]]


def _check_once(tensors: list[list[list[nn.Parameter]]]) -> None:
    times = Counter(id(parameter) for group in tensors for parallel in group for parameter in parallel)
    if times and max(times.values()) > 1:
        raise InputError("a module or parameter occurs twice in the coupling groups; name each block once")


def _check_ownership(tensors: list[list[list[nn.Parameter]]], optimizer: Optimizer) -> None:
    _check_once(tensors)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for number, group in enumerate(tensors):
        for parallel in group:
            lacking = [block for block, p in enumerate(parallel) if p.requires_grad and id(p) not in held]
            if lacking:
                raise InputError(
                    f"the optimizer does not hold the parameters of module {lacking[0]} in coupling group {number}; "
                    "pass the model's parameters to the optimizer first"
                )


def _check_dial(strength: float, kernel: str) -> None:
    if not 0 <= strength <= 1:
        raise InputError(f"coupling strength {strength} is not in [0, 1]; 0 is an ordinary network, 1 a tied one")
    if kernel not in get_args(Kernel):
        raise InputError(f"coupling kernel {kernel!r} is unknown; use 'uniform' or 'triangular'")
