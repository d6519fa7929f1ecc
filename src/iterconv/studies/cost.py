"""What a run costs, estimated from what it computes. Nothing here imports torch until this machine is timed."""

import time
from dataclasses import dataclass
from functools import cache

import torch

from iterconv.models import resnet
from iterconv.training.config import RunConfig

_SIZES = {
    "digits": (1294, 144, 359, 8, 1),
    "mnist": (54_000, 6000, 10_000, 28, 1),
    "cifar10": (45_000, 5000, 10_000, 32, 3),
    "cifar100": (45_000, 5000, 10_000, 32, 3),
    **{f"digitclutter-{digits}": (90_000, 10_000, 10_000, 32, 1) for digits in (3, 4, 5)},
}
"""Training, validation and test images, their height in pixels, their channels."""


@dataclass(frozen=True)
class Cost:
    """What a run has to compute."""

    steps: int
    """Optimizer steps, and as many steps' worth of evaluation in larger batches."""
    convolutions: int
    """Of one forward pass."""
    work: float
    """Multiply-accumulations of the whole run, each divided by how well its width fills vector units."""
    raw_work: float
    """The same, not divided."""


def cost(config: RunConfig) -> Cost:
    """Count the work of training a run, validating after each epoch, and measuring.

    A training step costs three forward passes; the constraint adds 0.3 of that. Measuring evaluates every
    perturbed path with shared prefixes, so that most of its work is in the stages behind a perturbed one.

    Args:
        config: A run; data sets not known by name are taken to be like CIFAR-10.

    Returns:
        The counts.
    """
    run = config.resolved()
    assert run.stages is not None and run.epochs is not None and run.batch_size is not None
    train, validation, test, size, channels = _SIZES.get(run.data, _SIZES["cifar10"])
    train = min(train, run.samples or train)
    validation, test = (min(n, run.evaluation_samples or n) for n in (validation, test))
    paths = 2 * (run.blocks - 1) + 16
    measured = (paths * (run.stages - 1) / 2) + run.blocks / 2 + 16 / run.blocks  # in forward passes
    forwards = (
        train * run.epochs * 3 * (1.0 if run.residual == "ordinary" else 1.3)
        + (validation * run.epochs + test * measured) * 0.8  # nothing is kept for a backward pass
    )
    convolutions = 2 * run.blocks + 2  # of each stage, downsampling included
    # Halving the map and doubling the channels leaves each stage the same work.
    image = (convolutions * 9 * run.width**2 + 9 * channels * run.width) * size**2
    filled = sum(image / min(run.width * 2**stage, 32) * 32 for stage in range(run.stages))
    steps = run.epochs * -(-train // run.batch_size)
    return Cost(steps, convolutions * run.stages, forwards * filled, forwards * image * run.stages)


def estimated_seconds(config: RunConfig) -> float:
    """A rough time for a run on one core of the reference machine (two cores, no GPU).

    Fitted to measured steps: 0.2 ms for each convolution of a step, and 58 billion multiply-accumulations a
    second for 32 channels, proportionally less for fewer (narrow convolutions leave vector units idle).

    Args:
        config: A run.

    Returns:
        Seconds.
    """
    counted = cost(config)
    return 3.0 + 0.2e-3 * counted.steps * counted.convolutions + counted.work / 58e9


def estimated_gpu_seconds(config: RunConfig) -> float:
    """A guess for a run alone on a data-centre GPU; assumed, not measured.

    Assumes 5e12 multiply-accumulations a second, and 60 microseconds for the kernels of each convolution of a
    step (with its norm, activation and gradients) to be launched.

    Args:
        config: A run.

    Returns:
        Seconds.
    """
    counted = cost(config)
    return 10.0 + max(60e-6 * counted.steps * counted.convolutions, counted.raw_work / 5e12)


@cache
def machine_factor() -> float:
    """How many times slower a core of this machine trains than the reference machine's, timed in about a second."""
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


def in_words(seconds: float) -> str:
    """A time with its unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
