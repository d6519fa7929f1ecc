"""Norms of real convolution operators, for many equally shaped convolutions in one batched power iteration.

The operator of a convolution depends on the feature map: with zero padding it is the matrix that maps a
flattened input map to a flattened output map, and its norm is not that of the reshaped kernel.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Kernels = Float[Tensor, "blocks out in kernel_height kernel_width"]
Maps = Float[Tensor, "blocks channels height width"]


_MOST_STEPS = 300


class _Operators:
    """diag(left) Conv diag(right) for several blocks: stride 1, odd kernels, zero padding, size preserved."""

    def __init__(
        self,
        kernels: Kernels,
        left: Float[Tensor, "blocks out"] | None = None,
        right: Float[Tensor, "blocks in"] | None = None,
    ) -> None:
        if left is not None:
            kernels = kernels * left[:, :, None, None, None]
        if right is not None:
            kernels = kernels * right[:, None, :, None, None]
        self.blocks = len(kernels)
        self.padding = (kernels.shape[-2] // 2, kernels.shape[-1] // 2)
        self.grouped = kernels.flatten(0, 1)  # one group a block: a single call serves the whole stage

    def __call__(self, x: Float[Tensor, "blocks in height width"]) -> Float[Tensor, "blocks out height width"]:
        y = F.conv2d(x.flatten(0, 1)[None], self.grouped, padding=self.padding, groups=self.blocks)
        return y.view(self.blocks, -1, *x.shape[2:])

    def adjoint(self, y: Float[Tensor, "blocks out height width"]) -> Float[Tensor, "blocks in height width"]:
        x = F.conv_transpose2d(y.flatten(0, 1)[None], self.grouped, padding=self.padding, groups=self.blocks)
        return x.view(self.blocks, -1, *y.shape[2:])


def _unit(maps: Tensor) -> tuple[Tensor, Float[Tensor, " blocks"]]:
    """Maps of norm 1 for each block, and the norms; a zero map stays zero."""
    norms = maps.flatten(1).norm(dim=1)
    return maps / _each(norms.clamp(min=torch.finfo(maps.dtype).tiny), maps), norms


def _each(numbers: Float[Tensor, " blocks"], maps: Tensor) -> Tensor:
    """One number a block, ready to be multiplied with its maps."""
    return numbers.view(-1, *[1] * (maps.ndim - 1))


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another precision, on the CPU where its device has no double one (Apple's)."""
    lacking = dtype == torch.float64 and tensor.device.type == "mps"
    return (tensor.cpu() if lacking else tensor).to(dtype)


def random_maps(blocks: int, channels: int, size: tuple[int, int], like: Tensor) -> Maps:
    """Unit maps to start from."""
    return random_start((blocks, channels, *size), like)


def random_start(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Unit vectors of shape (blocks, ...), the same every time and without touching torch's global random state."""
    generator = torch.Generator().manual_seed(0)
    return _unit(torch.randn(shape, generator=generator).to(like))[0]


@torch.no_grad()
def power_iteration(
    kernels: Kernels,
    start: Maps,
    left: Float[Tensor, "blocks out"] | None = None,
    right: Float[Tensor, "blocks in"] | None = None,
    *,
    steps: int = 1,
) -> tuple[Float[Tensor, "blocks out height width"], Maps, Float[Tensor, " blocks"]]:
    """Iterate towards the leading singular vectors of diag(left) Conv diag(right), for each block.

    Args:
        kernels: One convolution kernel a block.
        start: Unit maps of shape (blocks, in, height, width); their size is the feature map's.
        left: Factors of the output channels, or None for ones.
        right: Factors of the input channels, or None for ones.
        steps: The number of steps, at least 1.

    Returns:
        Left and right singular vectors as maps, and the norms, which approach the true ones from below.
    """
    operators = _Operators(kernels, left, right)
    right_vectors = start
    for _ in range(steps):
        left_vectors, _norms = _unit(operators(right_vectors))
        right_vectors, norms = _unit(operators.adjoint(left_vectors))
    return left_vectors, right_vectors, norms


@torch.no_grad()
def converged_norms(operators: Any, start: Tensor, *, tolerance: float) -> Float[Tensor, " blocks"]:
    """Norms iterated to convergence: the power iteration's vectors, all used together.

    Golub-Kahan bidiagonalisation applies the operator and its adjoint exactly as often as the power
    iteration, but takes the norm over all vectors so far, which needs several times fewer steps.

    Args:
        operators: One linear map a block, to be called, with an ``adjoint``.
        start: Unit vectors to start from, of shape (blocks, ...).
        tolerance: Stop when five more steps raise no norm by more than this fraction.

    Returns:
        The norms, from below; NaN for operators that are not finite.
    """
    v, u = start, torch.zeros(())
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    before = None
    for step in range(1, _MOST_STEPS + 1):
        y = operators(v)
        u, alpha = _unit(y - (u * _each(betas[-1], y) if betas else 0))
        v, beta = _unit(operators.adjoint(u) - v * _each(alpha, v))
        alphas.append(alpha)
        betas.append(beta)
        if step % 5 == 0:
            bidiagonal = torch.diag_embed(torch.stack(alphas, 1))
            bidiagonal[:, :-1, 1:] += torch.diag_embed(torch.stack(betas[:-1], 1))
            finite = bidiagonal.isfinite().flatten(1).all(1)  # LAPACK refuses anything else
            norms = torch.linalg.matrix_norm(bidiagonal.where(finite[:, None, None], 0), ord=2).where(finite, torch.nan)
            if before is not None and not bool((norms > before * (1 + tolerance)).any()):
                break
            before = norms
    return norms


def operator_norms(
    kernels: Kernels,
    size: tuple[int, int],
    left: Float[Tensor, "blocks out"] | None = None,
    right: Float[Tensor, "blocks in"] | None = None,
) -> Float[Tensor, " blocks"]:
    """Norms of diag(left) Conv diag(right) on maps of a given size, iterated to convergence in double precision.

    Source: Lippl et al., Sec. E.1; zero padding, stride 1, odd kernels.

    Args:
        kernels: One convolution kernel a block.
        size: Height and width of the feature map.
        left: Factors of the output channels, or None for ones.
        right: Factors of the input channels, or None for ones.

    Returns:
        The largest singular value of each block's operator.
    """
    double = cast(kernels.detach(), torch.float64)
    factors = [factor if factor is None else cast(factor.detach(), torch.float64) for factor in (left, right)]
    start = random_maps(len(kernels), kernels.shape[2], size, double)
    return converged_norms(_Operators(double, *factors), start, tolerance=1e-10)


class ConvolutionNorms(nn.Module):
    """The norms of one convolution in each block of a stage, followed through training.

    Keeps the right singular vectors in a buffer and moves them one step at each training forward, all
    blocks at once. The norm is then ``<u, diag(left) Conv(diag(right) v)>`` with u and v held fixed, so that
    gradients flow to the kernels and factors.

    Source: Lippl et al., Sec. E.1 (after Yoshida & Miyato, 2017).
    """

    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.empty(0))

    def tables(
        self,
        kernels: Kernels,
        size: tuple[int, int],
        left: Float[Tensor, "blocks out"] | None = None,
        right: Float[Tensor, "blocks in"] | None = None,
    ) -> Float[Tensor, "blocks out in"]:
        """Move the vectors one step; M such that each block's norm is ``left @ M @ right`` for given factors.

        The factors passed here steer the vectors; those multiplied with M may differ, such as batch
        statistics that are only known inside the block.
        """
        steps = 1 if self._fits(kernels, size) else 20
        u, v, _ = power_iteration(kernels.detach(), self._start(kernels, size), left, right, steps=steps)
        with torch.no_grad():
            if self._fits(kernels, size):
                self.vectors.copy_(v)
            else:
                self.vectors = v.clone()
            windows = _windows(v, kernels)
            correlations = torch.einsum("tohw,tihwkl->toikl", u, windows)
        return (kernels * correlations).sum((-2, -1))

    def converged(
        self,
        kernels: Kernels,
        size: tuple[int, int],
        left: Float[Tensor, "blocks out"] | None = None,
        right: Float[Tensor, "blocks in"] | None = None,
    ) -> Float[Tensor, " blocks"]:
        """The norms, iterated to convergence from a random start; the current vectors stay as they are.

        Vectors that have settled on other weights can miss the largest singular value of these altogether.
        """
        start = random_maps(len(kernels), kernels.shape[2], size, kernels)
        return converged_norms(_Operators(kernels.detach(), left, right), start, tolerance=1e-5)

    def estimate(
        self,
        kernels: Kernels,
        size: tuple[int, int],
        left: Float[Tensor, "blocks out"] | None = None,
        right: Float[Tensor, "blocks in"] | None = None,
    ) -> Float[Tensor, " blocks"]:
        """The norms as the current vectors have them, one step on; the vectors stay as they are."""
        return power_iteration(kernels.detach(), self._start(kernels, size), left, right)[2]

    def _fits(self, kernels: Kernels, size: tuple[int, int]) -> bool:
        return self.vectors.shape == (len(kernels), kernels.shape[2], *size)

    def _start(self, kernels: Kernels, size: tuple[int, int]) -> Maps:
        if self._fits(kernels, size):
            return self.vectors
        return random_maps(len(kernels), kernels.shape[2], size, kernels)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The size of the feature map is known from the first batch only, so a stored buffer sets the shape.
        stored = state_dict.get(prefix + "vectors")
        if stored is not None and stored.shape != self.vectors.shape:
            self.vectors = self.vectors.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _windows(maps: Maps, kernels: Kernels) -> Tensor:
    """What each position of a size-preserving convolution sees: (blocks, in, height, width, kernel, kernel)."""
    height, width = kernels.shape[-2:]
    padded = F.pad(maps, (width // 2, width // 2, height // 2, height // 2))
    return padded.unfold(2, height, 1).unfold(3, width, 1)
