"""A prototype: several networks of equal shape trained in lockstep as one, whose convolutions have a group for each."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from ratios import Row, compare, cpu
from torch import Tensor, nn
from torch.nn import functional as F

import iterconv as ic

BATCH, SIZE, STACK = 128, 28, 4


class StackedLinear(nn.Module):
    """A linear layer for each network, on the features that belong to it."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, features: Tensor) -> Tensor:
        """From (n, networks * features) to (n, networks, classes)."""
        apart = features.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], apart, self.weight.transpose(1, 2)).transpose(0, 1)


def stack(networks: Sequence[ic.StagedModel]) -> nn.Module:
    """Make one network of several of one stage, whose channels follow one another."""
    made = copy.deepcopy(networks[0])
    layers = [dict(network.named_modules()) for network in networks]
    for name, module in list(made.named_modules()):
        own = [found[name] for found in layers]
        joint: nn.Module | None = None
        if isinstance(module, nn.Conv2d):
            count = len(own)
            ins, outs = count * module.in_channels, count * module.out_channels
            joint = nn.Conv2d(ins, outs, 3, padding=1, groups=count, bias=False)
            joint.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in own]))  # type: ignore[arg-type]
        elif isinstance(module, nn.BatchNorm2d):
            joint = nn.BatchNorm2d(len(own) * module.num_features)
        elif isinstance(module, nn.Linear):
            joint = StackedLinear(own)  # type: ignore[arg-type]
        if joint is not None:
            parent, _, last = name.rpartition(".")
            setattr(made.get_submodule(parent), last, joint)
    return made


def stepper(network: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    """Make a function that does one training step in bfloat16; a stack's loss is the sum of its networks' losses."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(inputs).float()
        networks = targets.shape[1]
        loss = networks * F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.flatten())
        loss.backward()
        optimizer.step()
        return outputs.detach()

    return step


def check(networks: Sequence[ic.StagedModel], images: Tensor) -> float:
    """The largest difference between a stack's outputs and those of its networks, in float32."""
    apart = torch.stack([network(images) for network in networks], dim=1)
    together = stack(networks)(images.repeat(1, len(networks), 1, 1))
    return float((apart - together).abs().max())


def stacks(quick: bool) -> Iterator[Row]:
    """Train four networks of one stage as a stack, against one after another; both in bfloat16."""
    for width in (8, 16):
        torch.manual_seed(0)
        networks = [ic.models.resnet(width, 16, 1, 1, 10) for _ in range(STACK)]
        images, labels = torch.randn(BATCH, 1, SIZE, SIZE), torch.randint(10, (BATCH,))
        with torch.no_grad():
            difference = check(networks, images)
        if difference > 1e-4:
            raise SystemExit(f"a stack of width {width} comes to other outputs, by up to {difference:.2g}")
        joint_images, joint_labels = images.repeat(1, STACK, 1, 1), labels[:, None].repeat(1, STACK)
        together = stepper(stack(networks), joint_images, joint_labels)
        steps = [stepper(network, images, labels[:, None]) for network in networks]
        yield compare(
            f"stack-w{width}-s1",
            "at least 1.5",
            cpu(together),
            cpu(lambda: [step() for step in steps]),  # noqa: B023
            f"a step of {STACK} networks of 16 blocks, batch {BATCH}, {SIZE} x {SIZE} pixels, bf16; outputs differ "
            f"by up to {difference:.1g} in float32",
            rounds=2 if quick else 9,
        )
