"""Stages under the Lipschitz constraint: improperly and properly convergent ResNets."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.models.blocks import Maps, ResidualBlock, ResidualStage
from iterconv.models.shared_norm import SharedBatchNorm2d
from iterconv.spectral.convolutions import ConvolutionNorms, Convolutions
from iterconv.spectral.fingerprint import fingerprint
from iterconv.spectral.iteration import converged_norms
from iterconv.spectral.linear_maps import diagonal_of


class ConstrainedStage(ResidualStage):
    """Blocks whose residual functions are divided by ``c = max(L^(f) / mu, 1)``.

    Improperly convergent: ``R_t(z) = z + f_t(z) / c_t``. Properly convergent: ``R_t(z) = x + f_t(z) / c_t``
    with the stage's input x, a contraction by at least mu.

    Source: Lippl et al., Sec. 4.2, E.1. Departure: the text prints c = max(mu / L^, 1), an erratum; its prose
    fixes the meaning. Choice: in training, diag(BN) takes the batch variance, with its gradient, while the
    singular vectors follow the operator with the running variance, so that one batched power iteration
    serves all blocks before the first of them runs. In evaluation the norms are iterated to convergence
    whenever weights or statistics have changed, and c is a constant.

    Args:
        blocks: The blocks, in order.
        proper: True if the shortcut comes from the stage's input.
        lipschitz: The constant mu, above 0.
    """

    def __init__(self, blocks: list[ResidualBlock], *, proper: bool, lipschitz: float) -> None:
        super().__init__(blocks)
        self.proper = proper
        self.lipschitz = lipschitz
        self.inner_norms = ConvolutionNorms()
        self.outer_norms = ConvolutionNorms()
        self._tables: tuple[Tensor, Tensor] | None = None
        self._cached: tuple[object, Tensor] | None = None

    def train(self, mode: bool = True) -> "ConstrainedStage":
        """Switch between training and evaluation; constants are computed anew, whatever was done to the weights."""
        self._cached = None
        return super().train(mode)

    def forward(self, x: Maps) -> Maps:
        """The ordinary pass; in training the singular vectors move one step."""
        if self.training:
            # One batched iteration serves all blocks; it has to be done before the first of them runs.
            self._tables = self.move_vectors((x.shape[-2], x.shape[-1]))
        try:
            return super().forward(x)
        finally:
            self._tables = None

    def step(self, index: int, z: Maps, stage_input: Maps) -> Maps:
        """Apply block ``index``."""
        return (stage_input if self.proper else z) + self.branch(index, z)

    def branch(self, index: int, z: Maps) -> Maps:
        """The constrained residual function f / c of block ``index``."""
        block, size = self._typed_blocks()[index], (z.shape[-2], z.shape[-1])
        if not self.training:
            hidden = F.relu(block.bn2(block.conv1(F.relu(block.bn1(z)))))
            # All constants are computed together and kept, so that the index costs nothing.
            c = self.constants(size)[index]
        else:
            inner, outer = self._tables or self.move_vectors(size)
            normalised, right = _batch_norm(block.bn1, z)
            hidden, left = _batch_norm(block.bn2, block.conv1(F.relu(normalised)))
            hidden = F.relu(hidden)
            with torch.autocast(z.device.type, enabled=False):  # a constant needs more digits than bfloat16 has
                c = (outer[index] * (left @ inner[index] @ right) / self.lipschitz).clamp(min=1)
        # Dividing the small kernel is cheaper than dividing the map.
        return F.conv2d(hidden, block.conv2.weight / c, padding=1)

    def constants(self, size: tuple[int, int]) -> Float[Tensor, " blocks"]:
        """The constant c of each block in evaluation, from norms iterated to convergence for maps of this size."""
        key = (size, fingerprint(self._watched()))
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._converged_constants(size))
        return self._cached[1]

    def _converged_constants(self, size: tuple[int, int]) -> Tensor:
        # They outlive this call, so neither inference mode nor autocast around it may show in them.
        device = self._typed_blocks()[0].conv1.weight.device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            # Vectors that have settled on other weights can miss the largest singular value, so none are used here.
            inner, outer = (converged_norms(maps, maps.start(size), tolerance=1e-5) for maps in self._convolutions())
            return (inner * outer / self.lipschitz).clamp(min=1)

    @torch.no_grad()
    def estimates(self, size: tuple[int, int]) -> Float[Tensor, " blocks"]:
        """L^(f) of each block as training sees it for maps of this size: after one power iteration more than so far."""
        inner, outer = self._convolutions()
        return self.inner_norms.estimate(inner, size) * self.outer_norms.estimate(outer, size)

    def _convolutions(self) -> tuple[Convolutions, Convolutions]:
        """The maps of all blocks, with the running variances in diag(BN)."""
        conv1, conv2, left, right = self._operands()
        return Convolutions(conv1, left, right), Convolutions(conv2)

    def _operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kernels of Conv1 and Conv2, and diag(BN2), diag(BN1) in evaluation, stacked over the blocks."""
        rows = [
            (block.conv1.weight, block.conv2.weight, diagonal_of(block.bn2), diagonal_of(block.bn1))
            for block in self._typed_blocks()
        ]
        conv1, conv2, left, right = (torch.stack(column) for column in zip(*rows, strict=True))
        return conv1, conv2, left, right

    def _watched(self) -> list[Tensor]:
        """The tensors that the constants in evaluation depend on."""
        watched = []
        for block in self._typed_blocks():
            watched += [block.conv1.weight, block.conv2.weight]
            for norm in (block.bn1, block.bn2):
                # Batch norm moves its variance without raising the version; the number of batches shows it, but for
                # recorded steps, after which train() or eval() drops what was kept.
                watched += [norm.weight, *norm.buffers()]
        return watched

    def _typed_blocks(self) -> list[ResidualBlock]:
        return list(self.blocks)  # type: ignore[arg-type]

    def move_vectors(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Move the singular vectors of all blocks one step for maps of this size.

        Returns:
            For each block a table M of Conv1, such that ``diag(BN2) @ M @ diag(BN1)`` is the norm of what is between
            the two ReLUs, and the norm of Conv2. Gradients flow to the kernels.
        """
        conv1, conv2, left, right = self._operands()
        with torch.autocast(conv1.device.type, enabled=False):
            inner = self.inner_norms.tables(conv1, size, left.detach(), right.detach())
            outer = self.outer_norms.tables(conv2, size).sum((1, 2))
        return inner, outer


def _batch_norm(norm: nn.BatchNorm2d, x: Maps) -> tuple[Maps, Float[Tensor, " channels"]]:
    """Batch norm in training, and its diagonal with the batch's variance, which the norm computes anyway."""
    if isinstance(norm, SharedBatchNorm2d):
        normalised, inverse_std = norm.normalise(x)
        return normalised, norm.weight * inverse_std
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    # The function below bypasses the module, which would count its batches by itself.
    norm.num_batches_tracked.add_(1)
    statistics = (norm.running_mean, norm.running_var, True, norm.momentum, norm.eps)
    normalised, mean, inverse_std = torch.native_batch_norm(x, norm.weight, norm.bias, *statistics)
    return normalised, norm.weight * _InverseStd.apply(x, mean, inverse_std)


class _InverseStd(torch.autograd.Function):
    """1 / sqrt(variance + eps) of each channel as batch norm has it, with the gradient that torch leaves out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, inverse_std)
        return inverse_std.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, mean, inverse_std = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        factor = -gradients[0] * inverse_std**3 / count
        return (x - mean[:, None, None]) * factor[:, None, None], None, None
