"""When norms have to be computed anew: a fingerprint of the weights that costs nothing to take."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps: list[int] = []
"""The number of steps that optimizers have made since the first fingerprint; empty before it."""


def fingerprint(tensors: Iterable[Tensor]) -> tuple[object, ...]:
    """Return what differs when tensors are changed in place, replaced or moved, or when any optimizer has stepped.

    It reads no values, and so waits for no device. Writes through ``tensor.data``, and what batch norm does to its
    statistics, leave no trace in it.
    """
    if not _steps:  # fused optimizers, and FSDP2, change weights without raising their versions
        _steps.append(0)
        register_optimizer_step_post_hook(_count)
    return _steps[0], *((id(tensor), tensor.data_ptr(), tensor._version) for tensor in tensors)


@torch._disable_dynamo  # it must not become a part of a compiled step
def _count(*_: object) -> None:
    _steps[0] += 1
