"""Settling: a run of many steps against as many plain applications of the block, and its memory."""

from collections.abc import Iterator

import torch
from measuring import Peak
from ratios import Row, compare, cpu
from torch import Tensor

import iterconv as ic

STEPS = 200


def make(width: int = 16) -> tuple[ic.StagedModel, list[tuple[Tensor, Tensor]]]:
    """One stage of 16 blocks, as the paper's network of MNIST, and one batch."""
    torch.manual_seed(0)
    # A small scale of the norms, so that states stay finite.
    net = ic.models.resnet(width, blocks=16, stages=1, in_channels=1, init="recurrent", norm_scale=0.1).eval()
    return net, [(torch.randn(32, 1, 28, 28), torch.arange(32) % 10)]


def settle(quick: bool) -> Iterator[Row]:
    """Apply the last block again and again, with and without growth rates."""
    net, batches = make()
    block = net.stages[0].blocks[-1]
    with torch.no_grad():
        start = net.stages[0](net.stem(batches[0][0]))

    def plain() -> Tensor:
        with torch.no_grad():
            z = start
            for _ in range(STEPS):
                z = block(z)
        return z

    rounds = 1 if quick else 5
    note = f"{STEPS} steps of the last of 16 blocks, width 16, 32 images of 28 x 28; theirs is the block alone"
    yield compare(
        "settle",
        "at most 1.3",
        cpu(lambda: ic.settle(net, batches, steps=STEPS, growth=False)),
        cpu(plain),
        note,
        rounds=rounds,
        slower=True,
    )
    yield compare(
        "settle-growth",
        "at most 20",
        cpu(lambda: ic.settle(net, batches, steps=STEPS)),
        cpu(plain),
        "the same with growth rates",
        rounds=1 if quick else 3,
        slower=True,
    )


def memory(quick: bool) -> Iterator[Row]:
    """Compare the peak memory of 500 steps with that of 50."""
    net, batches = make(8)
    peaks = []
    for steps in (500, 50):
        with Peak() as tensors:
            ic.settle(net, batches, steps=steps, growth=False)
        peaks.append(tensors.peak)
    ratio = peaks[0] / peaks[1]
    note = "bytes, not seconds; 500 steps against 50"
    yield Row("settle-memory", ratio, "at most 1", peaks[0], peaks[1], (ratio, ratio), 1, note)
