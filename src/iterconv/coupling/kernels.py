"""Coupling kernels, and the mixtures that they make of gradients."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iterconv.errors import check_choice, check_count, check_range
from iterconv.options import Kernel


def coupling_matrix(
    num_blocks: int, strength: float, kernel: Kernel = "uniform", normalise: bool = True
) -> Float[Tensor, "blocks blocks"]:
    """The mixture that each block's gradient becomes: row t holds kappa(s, t) over s.

    Source: Lippl et al., Sec. 4.1 (uniform), Sec. D.2 (triangular). Departure: the rows of the printed
    triangular kernel do not sum to 1 (at strength 1 it is the sum, not the mean), so that the learning rate
    would mean something else than for the uniform one; they are normalised unless ``normalise=False``.

    Args:
        num_blocks: T, the size of the group.
        strength: lambda, in [0, 1].
        kernel: ``"uniform"`` couples all blocks alike, ``"triangular"`` near ones more.
        normalise: Whether the rows of the triangular kernel sum to 1.

    Returns:
        The T x T matrix in double precision.

    Raises:
        InputError: If there are no blocks, the strength is not in [0, 1] or the kernel unknown.
    """
    check_dial(strength, kernel)
    num_blocks = check_count("num_blocks", num_blocks)
    if kernel == "uniform":
        eye = torch.eye(num_blocks, dtype=torch.float64)
        return (1 - strength) * eye + strength / num_blocks
    if strength == 0:
        return torch.eye(num_blocks, dtype=torch.float64)
    position = torch.arange(num_blocks, dtype=torch.float64)
    slope = 2 * (1 - strength) / num_blocks if strength >= 0.5 else 1 / (2 * strength * num_blocks)
    matrix = (1 - slope * (position[:, None] - position).abs()).clamp(min=0)
    return matrix / matrix.sum(1, keepdim=True) if normalise else matrix


def check_dial(strength: Any, kernel: Any) -> None:
    """Raise ``InputError`` for a strength outside [0, 1] or an unknown kernel."""
    check_range("strength", strength, "[0, 1]", "0 is an ordinary network, 1 a tied one")
    check_choice("kernel", kernel, Kernel)


def mixture(gradients: Tensor, axes: tuple[int, ...], strength: float, kernel: Kernel, matrix: Tensor) -> Tensor:
    """What gradients become that are coupled along axes of one tensor.

    Args:
        gradients: Of any shape.
        axes: Along which they are coupled; a single one for the triangular kernel.
        strength: lambda, in (0, 1].
        kernel: As for ``coupling_matrix``.
        matrix: The ``coupling_matrix`` of the axis; the uniform kernel does without.

    Returns:
        A tensor of their shape, or one that broadcasts to it.
    """
    if strength == 1:  # all rows of the kernel are equal: one mixture, copied, keeps tied blocks bit-identical
        total = matrix[0].sum() if kernel == "triangular" else 1
        return (gradients.mean(axes, keepdim=True) * total).to(gradients.dtype)
    if kernel == "uniform":
        return gradients.lerp(gradients.mean(axes, keepdim=True), strength)
    moved = gradients.movedim(axes[0], 0)
    return (matrix.to(moved) @ moved.flatten(1)).view_as(moved).movedim(0, axes[0])
