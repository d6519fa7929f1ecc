"""``couple``: equally built modules, softly tied to each other."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from iterconv.coupling.handle import Coupling, OptimizerWrapper, check_dense, check_whole, local
from iterconv.errors import InputError

Group = Sequence[nn.Module] | nn.ModuleList | nn.Sequential
"""Equally built modules, which are coupled to each other."""


class BlockCoupling(Coupling):
    """A handle on groups of modules; see ``couple``."""

    def __init__(self, optimizer: object, groups: object, strength: object, kernel: object, normalise: bool) -> None:
        self._tensors = corresponding(groups)
        if not self._tensors and strength != 0:
            raise InputError("groups=[] couples nothing; pass lists of modules, as [[block1, block2]], or strength 0")
        everything = [
            (f"module {block} in coupling group {number}", parameter)
            for number, group in enumerate(self._tensors)
            for parallel in group
            for block, parameter in enumerate(parallel)
        ]
        sizes = [len(group[0]) for group in self._tensors]
        super().__init__(optimizer, everything, sizes, strength, kernel, normalise)

    def _mixtures(self) -> Iterator[Callable[[], None]]:
        for number, group in enumerate(self._tensors):
            for tensors in group:
                gradients = [tensor.grad for tensor in tensors]
                present = [g for g in gradients if g is not None]
                if not present:
                    continue
                if len(present) < len(gradients):
                    missing = next(i for i, g in enumerate(gradients) if g is None)
                    raise InputError(
                        f"block {missing + 1} of coupling group {number + 1} has no gradient while others have; "
                        "freeze all blocks of a group or none, and use every block in the loss"
                    )
                for gradient in present:
                    check_dense(gradient)
                if len({str(getattr(gradient, "placements", None)) for gradient in present}) > 1:
                    raise InputError(
                        f"the blocks of coupling group {number} are sharded differently; shard all alike, as "
                        "`for block in blocks: fully_shard(block)`"
                    )
                yield partial(self._mix_, [local(gradient) for gradient in present])

    def _mix_(self, gradients: list[Tensor]) -> None:
        stacked = torch.stack(gradients)
        # One call for all blocks: for small gradients, starting a copy takes longer than copying.
        torch._foreach_copy_(gradients, list(self._mix(stacked, (0,)).expand_as(stacked)))


def couple(
    optimizer: Optimizer | OptimizerWrapper,
    groups: Sequence[Group],
    strength: float,
    kernel: str = "uniform",
    *,
    normalise: bool = True,
) -> Coupling:
    """Couple the gradients of equally built modules at every step of an optimizer.

    The coupling happens when ``optimizer.step()`` is called, so after back-propagation, accumulation, averaging over
    devices, unscaling and clipping (which it can't undo: a normalised kernel never makes gradients larger in norm).
    Strength 0 is plain training bit for bit; strength 1 keeps modules that start equal, and whose parameter groups have
    equal options, bit-identical. Norm scales and biases are parameters and so coupled; running statistics are not. With
    ``fully_shard`` (FSDP2), shard each block alike and couple afterwards. Copies of an optimizer lose its hooks, so
    couple them again.

    Source: Lippl et al., Sec. 4.1, D.2, D.3.

    Args:
        optimizer: Any torch optimizer, or Fabric's, Lightning's or Accelerate's wrapper of one. Where a step is given a
            closure, the gradients of each of its evaluations are coupled.
        groups: Lists of modules; those of one list have equal structure and are coupled to each other.
        strength: lambda, in [0, 1].
        kernel: ``"uniform"`` couples all blocks alike, ``"triangular"`` near ones more; or the name of a kernel of your
            own (``iterconv.coupling.register``).
        normalise: True if the rows of the triangular kernel are to sum to 1 (see ``coupling_matrix``).

    Returns:
        A handle, to change the strength, save its state, or uncouple; also a context manager.

    Raises:
        InputError: If the strength is out of range, the kernel is unknown, a group has fewer than two modules or
            modules of different structure, a module or parameter occurs twice or is coupled in this optimizer already,
            or the optimizer lacks a parameter or is of ``FullyShardedDataParallel``, whose shards don't correspond.
    """
    return BlockCoupling(optimizer, groups, strength, kernel, normalise)


def corresponding(groups: object) -> list[list[list[nn.Parameter]]]:
    """Collect the parameters of all groups' modules, with those that correspond side by side.

    Raises:
        InputError: If the groups are not lists of equally built modules, or name something twice.
    """
    if not isinstance(groups, Sequence):
        raise InputError(f"groups ({type(groups).__name__}) is not a list; pass lists of modules, as [[a, b]]")
    tensors = [parallel_parameters(group, number) for number, group in enumerate(groups)]
    times = Counter(id(parameter) for group in tensors for parallel in group for parameter in parallel)
    if times and max(times.values()) > 1:
        raise InputError("a module or parameter occurs twice in the coupling groups; name each block once")
    return tensors


def parallel_parameters(group: object, number: int) -> list[list[nn.Parameter]]:
    """Collect the parameters of one group's modules, with those that correspond side by side."""
    if not isinstance(group, (Sequence, nn.ModuleList, nn.Sequential)) or not all(
        isinstance(module, nn.Module) for module in group
    ):
        raise InputError(
            f"coupling group {number} ({type(group).__name__}) is not a list of modules; pass [[block1, block2], ...]"
        )
    if len(group) < 2:
        raise InputError(f"coupling group {number} has {len(group)} module(s); coupling needs at least two")
    # Parameters correspond by name and not by order, which subclasses may change.
    named = [dict(module.named_parameters()) for module in group]
    for parameters in named:
        for parameter in parameters.values():
            check_whole(parameter)
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
