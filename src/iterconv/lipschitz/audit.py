"""The audit: what the constraint promises for each block, and what is observed."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import InputError, check_count
from iterconv.lipschitz.branches import find_branch, opaque_parts
from iterconv.lipschitz.constraint import constant_of
from iterconv.paths.untouched import untouched
from iterconv.spectral.convolutions import operator_norms
from iterconv.spectral.linear_maps import converged, estimated
from iterconv.tasks.batches import check_inputs, match_model

MARGIN = 1e-4
"""How far below 1 a bound has to be: iterated norms approach the true ones from below."""

PROVEN, OBSERVED, NOT, UNKNOWN = "contractive", "contractive on these inputs", "not contractive", "unknown"


def audit(
    model: nn.Module, inputs: Any, *, iterations: int = 30, progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """Bound and measure the Lipschitz constant of every block's residual function f, in evaluation mode.

    For the paper's networks ``L^(f) = |Conv2| |diag(BN2) Conv1 diag(BN1)|``, norms of the real operators on the stage's
    feature maps, running variances in diag(BN). For any other model, the forward of each block is traced, and the
    bound put together in the same way: a norm for each linear layer, with the diagonals of the batch norms beside it;
    the largest slope for each activation; sums for sums.

    Source: Lippl et al., Sec. 4.2 and E.1.

    Args:
        model: Any residual model; it is left exactly as it was.
        inputs: A batch that it takes, on which local constants are measured.
        iterations: Power iterations on each example's Jacobian.
        progress: Called after each block with the blocks done and all blocks.

    Returns:
        A table with one row a block: stage, block; ``estimate``, L^(f) after as many power iterations as
        training has made (ten from a random start in an unconstrained stage); ``bound``, L^(f) iterated to
        convergence in double precision; ``constrained``, the bound of f/c, which is f itself in an
        unconstrained stage; ``measured``, the largest spectral norm of the Jacobian of f/c at the
        representations that the inputs lead to; ``verdict``: "contractive" (the bound is below 0.9999),
        "contractive on these inputs" (only the measured constant is), "not contractive", or "unknown" (the bound is
        not below 1, and torch has no derivative for what the branch does); ``not_covered``: the
        parts that have no bound here (layer norms, attention, products of representations), without which there is
        none of f either (NaN), or why the branch can't be taken apart.

    Raises:
        InputError: If the model can't be adapted, the inputs are not finite, or there are no iterations.
    """
    iterations = check_count("iterations", iterations, why="measures nothing")
    check_inputs(inputs, 0)
    adapted, _ = as_staged(model, [(inputs, None)])
    rows: list[dict[str, Any]] = []
    total = sum(len(stage.blocks) for stage in adapted.stages)
    with untouched(adapted):
        for number, block, z, _, stage in paths.block_inputs(adapted, match_model(inputs, model)):
            row = _paper_row if hasattr(stage, "operators") else _foreign_row
            rows.append({"stage": number, "block": block, **row(stage, block, z, iterations)})
            if progress:
                progress(len(rows), total)
    return pd.DataFrame(rows)


def _paper_row(stage: Any, block: int, z: Tensor, iterations: int) -> dict[str, Any]:
    size = (z.shape[-2], z.shape[-1])
    kernels1, kernels2, left, right = (part[block : block + 1] for part in stage.operators())
    bound = (operator_norms(kernels1, size, left, right) * operator_norms(kernels2, size)).item()
    return {
        "estimate": stage.estimates(size)[block].item(),
        "bound": bound,
        **_judged(bound / stage.constants(size)[block].item(), lambda x: stage.branch(block, x), z, iterations),
        "not_covered": "",
    }


def _foreign_row(stage: Any, block: int, z: Tensor, iterations: int) -> dict[str, Any]:
    module = stage.blocks[block]
    try:
        branch = find_branch(module, z[:1])
    except InputError as problem:
        whole = {"estimate": math.nan, "bound": math.nan}
        rest = _judged(math.nan, lambda x: stage.step(block, x, None) - x, z, iterations)
        return {**whole, **rest, "not_covered": "; ".join([*opaque_parts(module), str(problem)])}
    bound = float(branch.bound.value(converged))
    judged = _judged(bound / constant_of(module), branch.function, z, iterations)
    not_covered = ", ".join(branch.uncovered)
    if judged["measured"] > judged["constrained"] * 1.01:  # no rule is beyond doubt: layers are known by their names
        bound = math.nan
        judged = {**judged, "constrained": math.nan, "verdict": OBSERVED if judged["measured"] < 1 else NOT}
        not_covered = "something that makes the measured constant exceed the bound"
    return {
        "estimate": float(branch.bound.value(estimated)),
        "bound": bound,
        **judged,
        "not_covered": not_covered,
    }


def _judged(constrained: float, function: Any, z: Tensor, iterations: int) -> dict[str, Any]:
    try:
        measured = largest_local_constant(function, z, iterations)
    except RuntimeError as problem:  # some operations have no derivatives, or no forward ones
        told = ("autograd.Function", "is not implemented")
        if not isinstance(problem, NotImplementedError) and not any(words in str(problem) for words in told):
            raise
        measured = math.nan
    verdict = PROVEN if constrained < 1 - MARGIN else OBSERVED if measured < 1 else NOT if measured >= 1 else UNKNOWN
    return {"constrained": constrained, "measured": measured, "verdict": verdict}


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
    norms = torch.zeros(len(z))
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no forward derivative
        output, pull_back = torch.func.vjp(function, z)  # type: ignore[misc]
        for _ in range(iterations):
            v = v / _norms(v)
            u = _pushed_forward(function, pull_back, z, v, output)
            (v,) = pull_back(u / _norms(u))
            norms = v.flatten(1).norm(dim=1)
    return float(norms.max())


def _pushed_forward(function: Any, pull_back: Any, z: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """The Jacobian at z, applied to v."""
    try:
        return torch.func.jvp(function, (z,), (v,))[1]
    except NotImplementedError:  # no forward derivative, as of mixtures of experts: the transpose of the transpose
        _, pull = torch.func.vjp(lambda u: pull_back(u)[0], torch.zeros_like(output))  # type: ignore[misc]
        return pull(v)[0]


def _norms(maps: Tensor) -> Tensor:
    norms = maps.flatten(1).norm(dim=1).clamp(min=torch.finfo(maps.dtype).tiny)
    return norms.view(-1, *[1] * (maps.ndim - 1))
