"""Stacks: runs of equal shape whose networks are trained side by side as one, against one after another."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ratios import Row, compare, cpu, fastest_precision
from torch import Tensor, nn

import iterconv as ic
from iterconv.data.dataset import Data, Split
from iterconv.training.allocator import keep_freed_memory
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.joint import apart, join
from iterconv.training.team import ALONE
from iterconv.training.trainee import Trainee

BATCH, SIZE, STACK = 128, 28, 4


def images(batch: int = BATCH, size: int = SIZE, channels: int = 1, device: str = "cpu") -> Data:
    """Make a batch of random images, by default of the size of MNIST's."""
    pixels = torch.randint(256, (batch, channels, size, size), dtype=torch.uint8)
    split = Split(pixels, torch.randint(10, (batch,))).to(device)
    mean = torch.full((channels,), 0.5, device=device)
    return ic.data.Data(name="random", train=split, validation=split, test=split, classes=10, mean=mean, std=mean)


def make_runs(config: RunConfig, dataset: Data, count: int) -> list[Trainee]:
    """Make runs that differ in their seeds."""
    return [Trainee(replace(config, seed=seed), RunFolder(Path("unused"), config), dataset) for seed in range(count)]


def stepper(
    runs: Sequence[Trainee], prepare: Callable[[nn.Module], nn.Module] = lambda network: network
) -> Callable[[], Tensor]:
    """Make a function that does one training step of runs side by side, as the package's loop does it.

    ``prepare`` makes of their network the one that takes the step, such as ``Recorded``.
    """
    fabric = ALONE.fabric(runs[0].dataset.train.images.device, runs[0].config.precision)
    network, *optimizers = fabric.setup(prepare(join([run.network for run in runs])), *(run.optimizer for run in runs))
    batches = [next(run.batches()) for run in runs]
    task = runs[0].dataset.task

    def step() -> Tensor:
        outputs = apart(network(*(inputs for inputs, _ in batches)))
        losses = [task.loss(own, targets) for own, (_, targets) in zip(outputs, batches, strict=True)]
        for optimizer in optimizers:
            optimizer.zero_grad()
        fabric.backward(sum(losses))
        for optimizer in optimizers:
            optimizer.step()
        return torch.stack(losses).detach()

    return step


def stacks(quick: bool) -> Iterator[Row]:
    """Train four networks of one stage with coupling as a stack, against one after another."""
    keep_freed_memory()
    torch.manual_seed(0)
    dataset = images()
    fastest = fastest_precision()
    for width, precision in dict.fromkeys(((8, fastest), (16, fastest), (8, "float32"))):
        config = RunConfig(data="mnist", width=width, batch_size=BATCH, coupling=0.5, precision=precision)
        together = stepper(make_runs(config, dataset, STACK))
        steps = [stepper([run]) for run in make_runs(config, dataset, STACK)]
        difference = float((together() - torch.cat([step() for step in steps])).abs().max())
        if difference > (1e-4 if precision == "float32" else 0.1):
            raise SystemExit(f"a stack of width {width} comes to other losses, by up to {difference:.2g}")
        yield compare(
            f"stack-w{width}-{precision}",
            "at least 1.45",
            cpu(together),
            cpu(lambda: [step() for step in steps]),  # noqa: B023
            f"a step of {STACK} networks of 16 blocks, batch {BATCH}, {SIZE} x {SIZE} pixels; the first losses differ "
            f"by up to {difference:.1g}",
            rounds=2 if quick else 9,
        )
