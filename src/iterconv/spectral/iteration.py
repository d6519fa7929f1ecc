"""Iterations towards the norms of linear maps, for several maps at once.

A linear map is whatever can be called with a batch of vectors, one for each map, and has an ``adjoint``:
``Convolutions`` and ``LinearMap``.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_MOST_STEPS = 300


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in another precision, on the CPU where its device has no double one (Apple's)."""
    lacking = dtype == torch.float64 and tensor.device.type == "mps"
    return (tensor.cpu() if lacking else tensor).to(dtype)


def random_start(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draw unit vectors of shape (maps, ...), the same every time and without touching torch's global random state."""
    # Drawn on the CPU, since the generators of other devices give other numbers.
    generator = torch.Generator().manual_seed(0)
    return unit(torch.randn(shape, generator=generator).to(like))[0]


@torch.no_grad()
def power_iteration(maps: Any, start: Tensor, *, steps: int = 1) -> tuple[Tensor, Tensor, Float[Tensor, " maps"]]:
    """Iterate towards the leading singular vectors of each map.

    Args:
        maps: The linear maps.
        start: Unit vectors of shape (maps, ...). A map that is 0 leaves its vector where it is.
        steps: The number of steps, at least 1.

    Returns:
        Left and right singular vectors, and the norms, which approach the true ones from below.
    """
    right = start
    for _ in range(steps):
        left, _norms = unit(maps(right))
        moved, norms = unit(maps.adjoint(left))
        right = torch.where(_each(norms, moved) > 0, moved, right)
    return left, right, norms


@torch.no_grad()
def converged_norms(maps: Any, start: Tensor, *, tolerance: float) -> Float[Tensor, " maps"]:
    """Compute norms iterated to convergence, from all of the power iteration's vectors together.

    Golub-Kahan bidiagonalisation applies the map and its adjoint exactly as often as the power
    iteration, but takes the norm over all vectors so far, which needs several times fewer steps.

    Args:
        maps: The linear maps.
        start: Unit vectors to start from, of shape (maps, ...).
        tolerance: The iteration stops when five more steps raise no norm by more than this fraction.

    Returns:
        The norms, from below; NaN for maps that are not finite.
    """
    # Vectors are not made orthogonal to all earlier ones. What that loses are copies of large singular values, which
    # leave the largest one as it is.
    v, u = start, torch.zeros(())
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    before = None
    for step in range(1, _MOST_STEPS + 1):
        y = maps(v)
        u, alpha = unit(y - (u * _each(betas[-1], y) if betas else 0))
        v, beta = unit(maps.adjoint(u) - v * _each(alpha, v))
        alphas.append(alpha)
        betas.append(beta)
        # The norm of the small matrix takes longer than a step of small maps, so it is not computed at each one.
        if step % 5 == 0:
            bidiagonal = torch.diag_embed(torch.stack(alphas, 1))
            bidiagonal[:, :-1, 1:] += torch.diag_embed(torch.stack(betas[:-1], 1))
            finite = bidiagonal.isfinite().flatten(1).all(1)  # LAPACK refuses anything else
            norms = torch.linalg.matrix_norm(bidiagonal.where(finite[:, None, None], 0), ord=2).where(finite, torch.nan)
            if before is not None and not bool((norms > before * (1 + tolerance)).any()):
                break
            before = norms
    return norms


def unit(vectors: Tensor) -> tuple[Tensor, Float[Tensor, " maps"]]:
    """Scale each map's vector to norm 1, and return the norms too; a vector of zeros stays zero."""
    norms = vectors.flatten(1).norm(dim=1)
    return vectors / _each(norms.clamp(min=torch.finfo(vectors.dtype).tiny), vectors), norms


def _each(numbers: Float[Tensor, " maps"], vectors: Tensor) -> Tensor:
    """Shape one number a map so that it can be multiplied with the map's vector."""
    return numbers.view(-1, *[1] * (vectors.ndim - 1))
