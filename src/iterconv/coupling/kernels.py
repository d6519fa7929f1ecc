"""Coupling kernels: which mixture of all blocks' gradients each block's gradient becomes."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iterconv.errors import InputError, check_choice, check_count, check_range
from iterconv.registry import Registry


class Kernel:
    """The base of all kernels; a subclass has a name and a matrix.

    ``iterconv.coupling.register`` makes a kernel of yours known to ``iterconv.couple``.
    """

    name: str
    """The name by which ``couple(kernel=...)`` knows it."""
    ordered = True
    """True if the order of the blocks matters, so that only one axis of a tensor can be coupled."""

    def matrix(self, count: int, strength: float, normalise: bool) -> Tensor:
        """Compute the mixtures of a group.

        Args:
            count: T, the number of blocks in the group.
            strength: lambda, in [0, 1].
            normalise: True if rows that would not sum to 1 are to be scaled so that they do.

        Returns:
            The T x T matrix in double precision; row t holds kappa(s, t) over s.
        """
        raise NotImplementedError

    def mix(self, gradients: Tensor, axes: tuple[int, ...], strength: float, matrix: Callable[[], Tensor]) -> Tensor:
        """Mix gradients along ``axes``; override it for a kernel that has a faster way than its matrix.

        Args:
            gradients: Gradients of blocks, or of positions of one parameter, stacked along the axes.
            axes: The coupled axes; a single one if the kernel is ordered.
            strength: lambda, in (0, 1].
            matrix: A function that returns the kernel's matrix for these axes.

        Returns:
            A tensor of their shape, or one that broadcasts to it.
        """
        weights = matrix()
        if bool((weights == weights[0, 0]).all()):  # one mixture, copied, keeps tied blocks bit-identical
            return (gradients.mean(axes, keepdim=True) * weights[0].sum()).to(gradients.dtype)
        front = tuple(range(len(axes)))
        moved = gradients.movedim(axes, front)
        mixed = weights.to(moved) @ moved.flatten(0, front[-1]).flatten(1)
        return mixed.view_as(moved).movedim(front, axes)


class Uniform(Kernel):
    """All blocks are coupled alike. Source: Lippl et al., Sec. 4.1."""

    name = "uniform"
    ordered = False

    def matrix(self, count: int, strength: float, normalise: bool) -> Tensor:
        """The mean over all blocks with weight lambda, the block itself with the rest; rows always sum to 1."""
        return (1 - strength) * torch.eye(count, dtype=torch.float64) + strength / count

    def mix(self, gradients: Tensor, axes: tuple[int, ...], strength: float, matrix: Callable[[], Tensor]) -> Tensor:
        """Move gradients towards their mean; the matrix would be large for a long axis."""
        mean = gradients.mean(axes, keepdim=True)
        # The mean itself is broadcast to all blocks, which keeps tied blocks equal to the bit.
        return mean if strength == 1 else gradients.lerp(mean, strength)


class Triangular(Kernel):
    """Near blocks are coupled more than distant ones.

    Source: Lippl et al., Sec. D.2. Departure: the rows of the printed kernel do not sum to 1 (at strength 1 it is the
    sum, not the mean), so that the learning rate would mean something else than for the uniform one; they are
    normalised unless ``normalise=False``.
    """

    name = "triangular"

    def matrix(self, count: int, strength: float, normalise: bool) -> Tensor:
        """Weights that fall linearly with the distance of two blocks."""
        if strength == 0:
            return torch.eye(count, dtype=torch.float64)
        position = torch.arange(count, dtype=torch.float64)
        slope = 2 * (1 - strength) / count if strength >= 0.5 else 1 / (2 * strength * count)
        weights = (1 - slope * (position[:, None] - position).abs()).clamp(min=0)
        return weights / weights.sum(1, keepdim=True) if normalise else weights


KERNELS = Registry(Kernel, (Uniform(), Triangular()))
"""All kernels by name."""
register = KERNELS.register


def coupling_matrix(
    num_blocks: int, strength: float, kernel: str = "uniform", normalise: bool = True
) -> Float[Tensor, "blocks blocks"]:
    """Compute the mixture that each block's gradient becomes: row t holds kappa(s, t) over s.

    Args:
        num_blocks: T, the size of the group.
        strength: lambda, in [0, 1].
        kernel: The name of a kernel, ``"uniform"``, ``"triangular"`` or one that you have registered.
        normalise: True if the rows of the triangular kernel are to sum to 1.

    Returns:
        The T x T matrix in double precision.

    Raises:
        InputError: If there are no blocks, the strength is not in [0, 1], or the kernel is unknown or its matrix is not
            finite and T x T.
    """
    check_dial(strength, kernel)
    num_blocks = check_count("num_blocks", num_blocks)
    matrix: Any = KERNELS[kernel].matrix(num_blocks, strength, normalise)
    if not isinstance(matrix, Tensor) or matrix.shape != (num_blocks, num_blocks) or not matrix.isfinite().all():
        raise InputError(
            f"the matrix of kernel {kernel!r} for {num_blocks} blocks and strength {strength} is not a finite tensor "
            f"of {num_blocks} x {num_blocks}; correct {type(KERNELS[kernel]).__name__}.matrix"
        )
    return matrix.double()


def check_dial(strength: object, kernel: object) -> None:
    """Raise ``InputError`` for a strength outside [0, 1] or an unknown kernel."""
    check_range("strength", strength, "[0, 1]", "0 is an ordinary network, 1 a tied one")
    check_choice("kernel", kernel, KERNELS)
