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
from iterconv.models.constrained import ConstrainedStage
from iterconv.paths.untouched import untouched
from iterconv.spectral.iteration import unit
from iterconv.spectral.linear_maps import converged, estimated
from iterconv.tasks.batches import check_inputs, match_model

MARGIN = 1e-4
"""The distance by which a bound has to be below 1, since iterated norms approach the true ones from below."""

MEASURED_MARGIN = 0.01
"""The same distance for a measured constant, whose iteration is cut off earlier."""

PROVEN, OBSERVED, NOT, UNKNOWN = "contractive", "contractive on these inputs", "not contractive", "unknown"


def audit(
    model: nn.Module, inputs: Any, *, iterations: int = 30, progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """Bound and measure the Lipschitz constant of every block's residual function f, in evaluation mode.

    The forward of each block is traced, and the bound put together from its parts: a norm for each linear layer, with
    the diagonals of the batch norms beside it; the largest slope for each activation; sums for sums. For the paper's
    networks that gives ``L^(f) = |Conv2| |diag(BN2) Conv1 diag(BN1)|``, norms of the real operators on the stage's
    feature maps, running variances in diag(BN).

    Source: Lippl et al., Sec. 4.2 and E.1.

    Args:
        model: Any residual model; it is left exactly as it was.
        inputs: A batch that it takes, on which local constants are measured.
        iterations: The number of power iterations on each example's Jacobian, at least; they go on, up to ten times as
            many, as long as the largest norm grows.
        progress: A function that is called after each block with the number of blocks done and of all blocks.

    Returns:
        A table with one row a block: stage, block; ``estimate``, L^(f) after as many power iterations as
        training has made (ten from a random start in an unconstrained stage); ``bound``, L^(f) iterated to
        convergence in double precision; ``constrained``, the bound of f/c, which is f itself in an
        unconstrained stage; ``measured``, the largest spectral norm of the Jacobian of f/c at the
        representations that the inputs lead to; ``verdict``: "contractive" (the bound is below 0.9999),
        "contractive on these inputs" (only the measured constant is, below 0.99), "not contractive", or "unknown"
        (the bound is not below 1, and the measured constant is too near 1 to tell, or torch has no derivative for what
        the branch does); ``not_covered``: the
        parts that have no bound here (layer norms, attention, whatever has no rule), without which there is
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
            rows.append({"stage": number, "block": block, **_row(stage, block, z, iterations)})
            if progress:
                progress(len(rows), total)
    return pd.DataFrame(rows)


def _row(stage: Any, block: int, z: Tensor, iterations: int) -> dict[str, Any]:
    module = stage.blocks[block]
    try:
        # One example is enough, since a bound depends on shapes and weights only.
        branch = find_branch(module, z[:1])
    except InputError as problem:
        whole = {"estimate": math.nan, "bound": math.nan}
        rest = _judge(math.nan, _difference(stage, block), z, iterations)
        return {**whole, **rest, "not_covered": "; ".join([*opaque_parts(module), str(problem)])}
    bound, not_covered = float(branch.bound.value(converged)), ", ".join(branch.uncovered)
    if isinstance(stage, ConstrainedStage):
        size = (z.shape[-2], z.shape[-1])
        function = _difference(stage, block)
        c, estimate = stage.constants(size)[block].item(), stage.estimates(size)[block].item()
    else:
        function, c, estimate = branch.function, constant_of(module), float(branch.bound.value(estimated))
    verdict = _judge(bound / c, function, z, iterations)
    if verdict["measured"] > verdict["constrained"] * 1.01:  # no rule is beyond doubt
        bound, not_covered = math.nan, "something that makes the measured constant exceed the bound"
        verdict = {**verdict, "constrained": math.nan, "verdict": _observed(verdict["measured"])}
    return {"estimate": estimate, "bound": bound, **verdict, "not_covered": not_covered}


def _difference(stage: Any, block: int) -> Callable[[Tensor], Tensor]:
    """Return what a block adds to the shortcut, as a function of its input."""
    if isinstance(stage, ConstrainedStage):
        return lambda x: stage.branch(block, x)
    # Blocks of foreign models do not see the input of their stage.
    return lambda x: stage.step(block, x, None) - x


def _judge(constrained: float, function: Any, z: Tensor, iterations: int) -> dict[str, Any]:
    try:
        measured = largest_local_constant(function, z, iterations)
    except RuntimeError as problem:  # some operations have no derivatives, or no forward ones
        told = ("autograd.Function", "is not implemented")
        if not isinstance(problem, NotImplementedError) and not any(words in str(problem) for words in told):
            raise
        measured = math.nan
    verdict = PROVEN if constrained < 1 - MARGIN else _observed(measured)
    return {"constrained": constrained, "measured": measured, "verdict": verdict}


def _observed(measured: float) -> str:
    """Return the verdict that a measured constant allows by itself."""
    if measured >= 1:
        return NOT
    return OBSERVED if measured < 1 - MEASURED_MARGIN else UNKNOWN


GROWTH = 1e-4
"""The relative growth of the largest norm in about ten iterations at which they stop."""


def largest_local_constant(function: Any, z: Tensor, iterations: int) -> float:
    """Measure the largest spectral norm of the Jacobian of a function that treats examples independently.

    Args:
        function: The function, of a batch.
        z: The batch at which the Jacobians are taken, one an example.
        iterations: The number of power iterations, at least, and a tenth of the most; the result approaches the largest
            norm from below.

    Returns:
        The maximum over the examples.
    """
    generator = torch.Generator().manual_seed(0)
    # The same start each time, so that an audit gives the same numbers again.
    v = torch.randn(z.shape, generator=generator).to(z)
    norms, found = torch.zeros(len(z)), 0.0
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no forward derivative
        output, pull_back = torch.func.vjp(function, z)  # type: ignore[misc]
        for step in range(10 * iterations):
            v, _ = unit(v)
            u, _ = unit(_push_forward(function, pull_back, z, v, output))
            (v,) = pull_back(u)
            norms = v.flatten(1).norm(dim=1)
            if step % 10 == 9 or step == iterations - 1:
                before, found = found, float(norms.max())
                if step >= iterations - 1 and not found > before * (1 + GROWTH):
                    break
    return float(norms.max())


def _push_forward(function: Any, pull_back: Any, z: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Apply the Jacobian at z to v."""
    try:
        return torch.func.jvp(function, (z,), (v,))[1]
    except NotImplementedError:  # no forward derivative, as of mixtures of experts: the transpose of the transpose
        _, pull = torch.func.vjp(lambda u: pull_back(u)[0], torch.zeros_like(output))  # type: ignore[misc]
        return pull(v)[0]
