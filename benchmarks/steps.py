"""A training step with coupling or constraint, against the same step without."""

from collections.abc import Callable, Iterator

import torch
from ratios import Row, compare, on_device
from torch.nn import functional as F

import iterconv as ic

WIDTH, BATCH, SIZE = 16, 128, 32


def stepper(residual: str = "ordinary", strength: float | None = None, device: str = "cpu") -> Callable[[], None]:
    """Make a function that does one training step."""
    torch.manual_seed(0)
    net = ic.models.resnet(WIDTH, blocks=16, stages=1, in_channels=3, residual=residual, init="recurrent")
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    if strength is not None:
        ic.couple(optimizer, net.coupling_groups(), strength)
    inputs, targets = torch.randn(BATCH, 3, SIZE, SIZE).to(device), torch.randint(10, (BATCH,)).to(device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    return step


def coupling(quick: bool, device: str = "cpu") -> Iterator[Row]:
    """A step of SGD with coupled gradients."""
    yield compare(
        "coupling",
        "at most 1.02",
        on_device(stepper(strength=0.5, device=device), device),
        on_device(stepper(device=device), device),
        f"one stage of 16 blocks, width {WIDTH}, batch {BATCH}, {SIZE} x {SIZE} pixels; the price of the coupling",
        rounds=3 if quick else 15,
        slower=True,
    )


def constraint(quick: bool, device: str = "cpu") -> Iterator[Row]:
    """A step of a network with the Lipschitz constraint."""
    yield compare(
        "constraint",
        "at most 1.25",
        on_device(stepper("improper", device=device), device),
        on_device(stepper(device=device), device),
        f"improperly convergent, one stage of 16 blocks, width {WIDTH}, batch {BATCH}; the price of the constraint",
        rounds=3 if quick else 15,
        slower=True,
    )
