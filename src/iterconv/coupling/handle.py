"""The handle of a coupled optimizer: its dial, its state, its hook."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from iterconv.coupling.kernels import KERNELS, check_dial, coupling_matrix
from iterconv.errors import InputError

_COUPLED: "WeakKeyDictionary[Optimizer, list[Coupling]]" = WeakKeyDictionary()
"""The handles of each coupled optimizer, so that nothing is coupled twice without notice."""


class OptimizerWrapper(Protocol):
    """Fabric's, Lightning's or Accelerate's wrapper of a torch optimizer."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that is wrapped."""


class Coupling:
    """The handle of a coupled optimizer; made by ``couple`` and ``couple_axis``."""

    def __init__(
        self,
        optimizer: object,
        parameters: list[tuple[str, nn.Parameter]],
        sizes: list[int],
        strength: object,
        kernel: object,
        normalise: bool,
    ) -> None:
        if not isinstance(optimizer, LRScheduler):  # which has an optimizer, but is no wrapper of it
            optimizer = getattr(optimizer, "optimizer", optimizer)  # Fabric, Lightning and Accelerate wrap torch's
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"{type(optimizer).__name__} is not a torch optimizer; pass a torch.optim.Optimizer")
        if not getattr(type(optimizer).step, "hooked", False):  # as torch marks what its own constructor has prepared
            raise InputError(
                f"{type(optimizer).__name__} does not run torch's step hooks; couple the optimizer that it is built on"
            )
        _check_held(parameters, optimizer)
        self._sizes, self._parameters = sizes, {id(parameter) for _, parameter in parameters}
        self._set(strength, kernel, normalise)
        # Nothing is registered before all checks, so that a refused coupling leaves the optimizer as it was.
        handles = _COUPLED.setdefault(optimizer, [])
        if any(self._parameters & other._parameters for other in handles):
            raise InputError("some of these parameters are coupled already in this optimizer; remove() that handle")
        handles.append(self)
        self._hook = optimizer.register_step_pre_hook(self._before_step)
        self._handles = handles

    @property
    def strength(self) -> float:
        """lambda, in [0, 1]; may be set at any time during training."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._set(value, self.kernel, self.normalise)

    def _set(self, strength: Any, kernel: Any, normalise: bool) -> None:
        check_dial(strength, kernel)
        coupling_matrix(2, strength, kernel, normalise)  # refuses a user's kernel that does not work, before training
        self._matrices: dict[int, Tensor] = {}
        self._strength, self.kernel, self.normalise = float(strength), kernel, normalise

    def matrix(self, size: int) -> Tensor:
        """The mixtures of a group of ``size`` blocks, as ``coupling_matrix`` returns them."""
        # The matrix is the same at every step until the dial is moved.
        if size not in self._matrices:
            self._matrices[size] = coupling_matrix(size, self._strength, self.kernel, self.normalise)
        return self._matrices[size]

    def _mix(self, gradients: Tensor, axes: tuple[int, ...]) -> Tensor:
        size = math.prod(gradients.shape[axis] for axis in axes)
        return KERNELS[self.kernel].mix(gradients, axes, self._strength, partial(self.matrix, size))

    @torch.no_grad()
    def apply_(self) -> None:
        """Couple the present gradients; the optimizer's step does this by itself.

        Raises:
            InputError: If some blocks of a group have a gradient and others have none, or they are sparse or
                sharded in ways that can't be mixed.
        """
        if self._strength == 0:  # plain training, bit for bit
            return
        for replace in list(self._mixtures()):  # all are checked before any changes
            replace()

    def _mixtures(self) -> Iterator[Callable[[], None]]:
        """Yield one function per set of coupled gradients; calling it overwrites them with their mixture."""
        raise NotImplementedError

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closures = [value for value in (*args[1:], *kwargs.values()) if callable(value)]
        if not closures:
            self.apply_()
            return None

        def coupled(closure: Any) -> Any:
            def run() -> Any:
                loss = closure()
                self.apply_()
                return loss

            return run if callable(closure) else closure

        # A closure makes the gradients within the step (as Lightning does), so they are coupled there.
        return (args[0], *map(coupled, args[1:])), {name: coupled(value) for name, value in kwargs.items()}

    def remove(self) -> None:
        """Uncouple the optimizer."""
        self._hook.remove()
        if self in self._handles:
            self._handles.remove(self)

    def __enter__(self) -> "Coupling":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the dial's position, to be saved with a run."""
        return {
            "strength": self._strength,
            "kernel": self.kernel,
            "normalise": self.normalise,
            "group_sizes": list(self._sizes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the dial where ``state_dict`` found it.

        Args:
            state: The dictionary that ``state_dict`` of a handle on equal groups returned.

        Raises:
            InputError: If it is something else, or belongs to other groups.
        """
        mine = self.state_dict()
        if not isinstance(state, dict) or state.keys() != mine.keys():
            raise InputError(f"coupling state has to have the keys {', '.join(mine)}; pass what state_dict() returned")
        if state["group_sizes"] != mine["group_sizes"]:
            raise InputError(
                f"coupling state is of groups of {state['group_sizes']} blocks, these are of {mine['group_sizes']}"
            )
        self._set(state["strength"], state["kernel"], state["normalise"])


def _check_held(parameters: list[tuple[str, nn.Parameter]], optimizer: Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lacking = [owner for owner, parameter in parameters if parameter.requires_grad and id(parameter) not in held]
    if lacking:
        raise InputError(
            f"the optimizer does not hold the parameters of {lacking[0]}; pass the model's parameters to the optimizer "
            "first, after sharding if there is any"
        )


def check_whole(parameter: Tensor) -> None:
    """Raise ``InputError`` for a parameter that is cut into flat pieces."""
    if getattr(parameter, "_fsdp_flattened", False):
        raise InputError(
            "FullyShardedDataParallel cuts parameters at different places in different blocks, so their gradients "
            "can't be mixed; use torch.distributed.fsdp.fully_shard"
        )


def local(gradient: Tensor) -> Tensor:
    """Return a gradient, or this process's shard of it."""
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def check_dense(gradient: Tensor) -> None:
    """Raise ``InputError`` for a sparse gradient."""
    if gradient.layout != torch.strided:
        raise InputError("sparse gradients can't be coupled; use dense ones (sparse=False)")
