"""The effective parameter count of networks whose blocks are alike but not equal."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from iterconv.coupling.modules import Group, corresponding
from iterconv.errors import InputError


class ParameterCount(NamedTuple):
    """The number of parameters of a softly tied network, counted in three ways."""

    raw: int
    """All parameters."""
    tied: int
    """The number that is left when each group shares one set of weights."""
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
        groups: Lists of equally built modules, as for ``couple``.

    Returns:
        Raw, tied and effective counts and the mean deviation; fully tied blocks give ``effective == tied``
        exactly.

    Raises:
        InputError: If the modules of a group differ in structure, or hold parameters of another model.
    """
    tensors = corresponding(groups)
    if not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__} is not a torch.nn.Module; pass the model itself")
    own = {id(parameter) for parameter in model.parameters()}
    if any(id(p) not in own for group in tensors for parallel in group for p in parallel):
        raise InputError(f"the groups hold parameters that are not {type(model).__name__}'s; pass its own blocks")
    raw = sum(parameter.numel() for parameter in model.parameters())
    coupled = sum(len(parallel) * parallel[0].numel() for group in tensors for parallel in group)
    means = sum(parallel[0].numel() for group in tensors for parallel in group)
    deviation = math.fsum(_total_deviation(parallel) for group in tensors for parallel in group)
    tied = raw - coupled + means
    return ParameterCount(raw, tied, tied + deviation, deviation / coupled if coupled else 0.0)


def _total_deviation(parallel: Sequence[Tensor]) -> float:
    # Some devices have no double precision.
    weights = torch.stack([p.detach().cpu().double() for p in parallel])
    from_first = weights - weights[0]  # exactly 0 for tied blocks, where the mean could round
    deviations = from_first - from_first.mean(0)
    total = deviations.abs().sum().item()
    return total / weights.std(correction=0).item() if total else 0.0
