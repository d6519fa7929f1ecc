"""Batch norm over a batch that several processes share, with the statistics of the whole batch."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from iterconv.models.blocks import Maps


class SharedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose batch is the one of all processes of the default process group together.

    Gradients are exact if every process computes the same loss of the whole batch and gradients are averaged over
    processes. Torch's own ``SyncBatchNorm`` works on accelerators only, and keeps its statistics to itself.
    """

    def forward(self, x: Maps) -> Maps:
        """Normalise this process's share of the batch."""
        return self.normalise(x)[0] if self.training else super().forward(x)

    def normalise(self, x: Maps) -> tuple[Maps, Float[Tensor, " channels"]]:
        """Normalise in training; also returns 1 / sqrt(variance + eps) of each channel, which has a gradient too."""
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        # Statistics need more digits than bfloat16, which autocast may have made of the input.
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        normalised, inverse_std, mean, variance = _Normalise.apply(exact, self.weight, self.bias, self.eps)
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        return normalised.to(x.dtype), inverse_std


def share_batch_norms(network: nn.Module) -> None:
    """Turn all batch norms of a network into shared ones; parameters, statistics and names stay as they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d


class _Normalise(torch.autograd.Function):
    """Batch norm with one exchange of sums in each direction; what is between them is torch's own, as in evaluation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        rows = x.numel() // x.shape[1]
        # A share may be empty, where the last batch of an epoch has fewer images than there are processes.
        found = torch.batch_norm_update_stats(x, None, None, 0.0) if rows else x.new_zeros(2, x.shape[1])
        mean, variance = (each.double() for each in found)  # so that the difference of squares loses nothing
        sums = rows * torch.stack([torch.ones_like(mean), mean, variance + mean**2])
        distributed.all_reduce(sums)
        count, mean, square = sums[0], sums[1] / sums[0], sums[2] / sums[0]
        variance = square - mean**2
        unbiased, inverse_std = variance * count / (count - 1), (variance + eps).rsqrt()
        statistics = (mean, variance, unbiased, inverse_std, count)
        mean, variance, unbiased, inverse_std, count = (each.to(x) for each in statistics)
        ctx.save_for_backward(x, weight, mean, variance, inverse_std, count)
        ctx.mark_non_differentiable(mean, unbiased)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), inverse_std, mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, inverse_std, count = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        if len(x):
            operands = (gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True] * 3)
            of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(*operands)  # with fixed statistics
        sums = torch.stack([weight * of_bias, weight * of_weight + inverse_std * gradients[1]])
        distributed.all_reduce(sums)
        shift, slope = inverse_std * sums / count
        return of_x - F.batch_norm(x, mean, variance, slope, shift, eps=ctx.eps), of_weight, of_bias, None
