"""The cost of a run, estimated from the FLOPs of its network and from how fast a kind of machine is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iterconv import paths
from iterconv.data.known import KNOWN, VALIDATION_SHARE
from iterconv.models import resnet
from iterconv.training.config import RunConfig

CONSTRAINT = 1.3
"""The time of a training step under the Lipschitz constraint, roughly, as a multiple of that without: the power
iteration has few FLOPs, but many small operations."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of machine: the constants that turn the FLOPs of a run into seconds."""

    start: float
    """Seconds that every run takes, whatever its network."""
    launch: float
    """Seconds for each layer of a training step (a convolution with its norm, activation, gradients), however small."""
    flops: float
    """FLOPs a second, in convolutions of so many channels that all of its vector units are busy."""
    channels: int
    """The least number of such channels; convolutions of fewer are proportionally slower."""
    total: Callable[[list[float]], float]
    """The time of launching and computing together: ``sum`` if one waits for the other, ``max`` if they overlap."""


CORE = Machine(start=3.0, launch=0.2e-3, flops=116e9, channels=32, total=sum)
"""One core of the reference machine (AMD EPYC with AVX-512, two cores, no GPU). The constants were fitted to the times
of training steps there; ``machine_factor`` times one such step to compare another machine."""

GPU = Machine(start=10.0, launch=0.13e-3, flops=10e12, channels=1, total=max)
"""A data-centre GPU that a run has for itself. The launch of a recorded layer was measured on an H100, with three
stages of 16 blocks of width 8; the other constants are assumed."""


@dataclass(frozen=True)
class Cost:
    """The work of a run."""

    flops: dict[int, float]
    """Floating-point operations of the whole run, by the number of output channels of the layers that need them."""
    launches: int
    """Layers that are launched in training; in evaluation there are few launches, as its batches are large."""

    def seconds(self, machine: Machine) -> float:
        """The time that the run takes on a kind of machine."""
        full = sum(flops * max(1.0, machine.channels / channels) for channels, flops in self.flops.items())
        return machine.start + machine.total([machine.launch * self.launches, full / machine.flops])


def cost(config: RunConfig) -> Cost:
    """Count the work of training a run, validating after each epoch, and measuring.

    A training step takes three forward passes, as the backward pass has the gradients of inputs and of weights.

    Args:
        config: A run; data sets not known by name are taken to be like CIFAR-10.

    Returns:
        The counts.
    """
    run = config.resolved()
    assert run.stages is not None and run.epochs is not None and run.batch_size is not None
    images = KNOWN.get(run.data, KNOWN["cifar10"]).images
    validation = round(VALIDATION_SHARE * images.training)
    train = min(images.training - validation, run.samples or images.training)
    validation, test = (min(n, run.evaluation_samples or n) for n in (validation, images.test))
    constraint = 1.0 if run.residual == "ordinary" else CONSTRAINT
    training = 3 * train * constraint
    passes = run.epochs * (training + validation) + test * _measured_passes(run.blocks, run.stages)
    layers = _layers(run.width, run.stages, images.size, images.channels, images.classes)
    flops: dict[int, float] = {}
    for channels, count, in_block in layers:
        flops[channels] = flops.get(channels, 0.0) + passes * count * (run.blocks if in_block else 1)
    launches = sum(run.blocks if in_block else 1 for *_, in_block in layers)
    steps = run.epochs * -(-train // run.batch_size)
    return Cost(flops, round(steps * launches * constraint))


@cache
def _layers(width: int, stages: int, size: int, in_channels: int, classes: int) -> list[tuple[int, int, bool]]:
    """Output channels and FLOPs for one image of each layer of a network, and whether it is repeated in every block.

    The blocks of a stage are alike, so that one of each is counted.
    """
    with torch.device("meta"), torch.no_grad():
        network = resnet(width, 1, stages, in_channels, classes).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, in_channels, size, size))
    counts = counter.get_flop_counts()
    return [
        (len(layer.weight), sum(counts[f"{type(network).__name__}.{name}"].values()), ".blocks." in name)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]


@cache
def _measured_passes(blocks: int, stages: int) -> float:
    """Forward passes that measuring takes for each test image, as perturbed paths share their beginnings."""
    full = (tuple(range(blocks)),) * stages
    families = (paths.early_readouts(blocks), paths.dropouts(blocks), paths.extra_evaluations(blocks))
    perturbed = [p.path for family in families for p in family]
    routes = [(*full[:stage], path, *full[stage + 1 :]) for stage in range(stages) for path in perturbed]
    return paths.block_applications([full, *routes]) / (blocks * stages)


@cache
def machine_factor() -> float:
    """Time a core of this machine, in about a second; return how many times slower it trains than the reference's."""
    network = resnet(16, 4, 1, 3, 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.long)
    times = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(6):
            started = time.perf_counter()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return sorted(times[1:])[2] / REFERENCE_STEP


REFERENCE_STEP = 0.060
"""Seconds of that step on one core of the reference machine (AMD EPYC with AVX-512)."""


def side_by_side(seconds: Sequence[float], workers: int) -> float:
    """Estimate the time of jobs of so many seconds each, so many at a time: no less than that of the longest one."""
    return max(sum(seconds) / workers, *seconds, 0.0)


def in_words(seconds: float) -> str:
    """Write a time with its unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
