"""The audit: what the constraint promises for each block, and what is observed."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from iterconv._typing import Float
from iterconv.errors import InputError
from iterconv.lipschitz.norms import operator_norms
from iterconv.stages import require_staged, untouched

PROVEN, OBSERVED, NOT = "contractive", "contractive on these inputs", "not contractive"


def audit(model: nn.Module, inputs: Float[Tensor, "n channels height width"], *, iterations: int = 30) -> pd.DataFrame:
    """Bound and measure the Lipschitz constant of every block's residual function f, in evaluation mode.

    Source: Lippl et al., Sec. 4.2 and E.1: ``L^(f) = |Conv2| |diag(BN2) Conv1 diag(BN1)|``, norms of the real
    operators on the stage's feature maps, running variances in diag(BN).

    Args:
        model: A network of ``iterconv.models``; it is left exactly as it was.
        inputs: A batch, on which local constants are measured.
        iterations: Power iterations on each example's Jacobian.

    Returns:
        A table with one row a block: stage, block; ``estimate``, L^(f) after as many power iterations as
        training has made (ten from a random start in an unconstrained stage); ``bound``, L^(f) iterated to
        convergence in double precision; ``constrained``, the bound of f/c, which is f itself in an
        unconstrained stage; ``measured``, the largest spectral norm of the Jacobian of f/c at the
        representations that the inputs lead to; ``verdict``: "contractive" (the bound is below 1),
        "contractive on these inputs" (only the measured constant is), or "not contractive".

    Raises:
        InputError: If the model does not satisfy the contract, its blocks are not those of the paper, the
            inputs are not finite, or there are no iterations.
    """
    require_staged(model)
    if iterations < 1:
        raise InputError(f"iterations={iterations} measures nothing; use 1 or more")
    if not bool(torch.isfinite(inputs).all()) or len(inputs) == 0:
        raise InputError("the inputs of an audit must be a batch of at least one example without NaN or infinity")
    rows = []
    with untouched(model):
        for number, block, z in _block_inputs(model, inputs):
            stage: Any = model.stages[number]  # type: ignore[index]
            if not hasattr(stage, "branch"):
                raise InputError(
                    f"stage {number} ({type(stage).__name__}) has no `branch(index, z)`; "
                    "the audit covers the networks of iterconv.models"
                )
            rows.append(_row(stage, number, block, z, iterations))
    return pd.DataFrame(rows)


def _block_inputs(model: Any, inputs: Tensor) -> Any:
    """What enters every block on the ordinary path: (stage, block, representation)."""
    z = model.stem(inputs)
    for number, stage in enumerate(model.stages):
        x = z if number == 0 else model.transitions[number - 1](z)
        z = x
        for block in stage.full_path:
            yield number, block, z
            z = stage.step(block, z, x)


def _row(stage: Any, number: int, block: int, z: Tensor, iterations: int) -> dict[str, Any]:
    size = (z.shape[-2], z.shape[-1])
    kernels1, kernels2, left, right = (part[block : block + 1] for part in stage.operators())
    bound = (operator_norms(kernels1, size, left, right) * operator_norms(kernels2, size)).item()
    constrained = bound / stage.constants(size)[block].item()
    measured = largest_local_constant(lambda x: stage.branch(block, x), z, iterations)
    verdict = PROVEN if constrained < 1 else OBSERVED if measured < 1 else NOT
    return {
        "stage": number,
        "block": block,
        "estimate": stage.estimates(size)[block].item(),
        "bound": bound,
        "constrained": constrained,
        "measured": measured,
        "verdict": verdict,
    }


def largest_local_constant(function: Any, z: Tensor, iterations: int) -> float:
    """The largest spectral norm of the Jacobian of a function that treats examples independently.

    Args:
        function: From a batch to a batch.
        z: Where to take the Jacobians, one an example.
        iterations: Power iterations; the result approaches the largest norm from below.

    Returns:
        The maximum over the examples.
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(z.shape, generator=generator).to(z)
    _, pull_back = torch.func.vjp(function, z)  # type: ignore[misc]
    norms = torch.zeros(len(z))
    for _ in range(iterations):
        v = v / _norms(v)
        _, u = torch.func.jvp(function, (z,), (v,))  # type: ignore[misc]
        (v,) = pull_back(u / _norms(u))
        norms = _norms(v).flatten()
    return float(norms.max())


def _norms(maps: Tensor) -> Tensor:
    norms = maps.flatten(1).norm(dim=1).clamp(min=torch.finfo(maps.dtype).tiny)
    return norms.view(-1, *[1] * (maps.ndim - 1))
