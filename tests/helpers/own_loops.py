"""Models as users write them whose blocks are executed in loops, in place, by chance or in other ways of their own."""

import random

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

from own_base import CLASSES, WIDTH, Net, Res, own
from own_stages import UNet

# Loops.


@own()
class WeightTiedLoop(Net):
    def __init__(self):
        super().__init__(1)

    def through(self, z):
        for _ in range(5):
            z = self.blocks[0](z)
        return z


@own()
class TiedList(Net):
    def __init__(self):
        super().__init__(1)
        self.blocks = nn.Sequential(*[self.blocks[0]] * 4)


@own()
class AbcLoop(Net):
    def __init__(self):
        super().__init__(3)

    def through(self, z):
        for _ in range(3):
            z = super().through(z)
        return z


@own()
class AdaptiveDepth(Net):
    """ACT: one block until a halting score, summed over steps, says enough."""

    def __init__(self):
        super().__init__(1)
        self.halt = nn.Linear(WIDTH, 1)

    def through(self, z):
        total = torch.zeros(len(z), 1)
        steps = 0
        while steps < 12 and (total < 1.5).any():
            z = self.blocks[0](z)
            total, steps = total + torch.sigmoid(self.halt(z)), steps + 1
        return z + steps


@own()
class FixedPoint(Net):
    """A contraction, iterated until it moves no more."""

    class block(Res):
        def forward(self, z):
            return z + 0.5 * (torch.tanh(self.branch(z) / 4) - z)

    def __init__(self):
        super().__init__(1)

    def through(self, z):
        before = z + 1
        while (z - before).norm() > 1e-2 * z.norm():
            before, z = z, self.blocks[0](z)
        return z


@own()
class Reversed(Net):
    def through(self, z):
        for block in reversed(self.blocks):
            z = block(z)
        return z


# Numbers' types, ways of calling, and what blocks are.


@own()
class AutocastInside(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


@own(inputs=lambda: torch.randn(3, 3, 16, 16))
class AutocastConvolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, CLASSES)
        self.blocks = nn.Sequential(*(UNet.block(8) for _ in range(3)))

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@own()
class InPlace(Net):
    class block(Res):
        def forward(self, z):
            return z.add_(self.branch(z))


@own()
class InPlaceWithSkip(InPlace):
    """The skip is taken before the blocks, which change it."""

    def through(self, z):
        return z + super().through(z)


@own()
class InPlaceBetween(Net):
    """The model changes what a block made, and a block's input is kept: handing that on must not change it."""

    def through(self, z):
        states = []
        for block in self.blocks:
            states.append(z)
            z = block(z)
            z += 0.1
        return z + states[2]


@own()
class Checkpointed(Net):
    def through(self, z):
        for block in self.blocks:
            z = torch.utils.checkpoint.checkpoint(block, z, use_reentrant=False)
        return z


@own()
class ParametersOnly(Net):
    """Blocks without child modules."""

    class block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)

        def forward(self, z):
            return z + torch.tanh(z @ self.weight)


@own()
class Scripted(Net):
    @staticmethod
    def block():
        return torch.jit.script(Res())


@own()
class InnerGradient(Net):
    """Blocks that descend an energy, by autograd within the forward pass."""

    class block(Res):
        def forward(self, z):
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                energy = self.branch(z).square().sum()
                return (z - 0.1 * torch.autograd.grad(energy, z)[0]).detach()


# Memory, chance, hooks.


@own()
class Counter(Net):
    class block(Res):
        def __init__(self):
            super().__init__()
            self.calls, self.history = 0, []

        def forward(self, z):
            self.calls += 1
            self.history.append(self.calls)
            return z + self.branch(z) / len(self.history)


@own()
class KeepsItsState(Net):
    """As RecurrentGemma: a tensor that a block keeps as a plain attribute and changes."""

    class block(Res):
        def __init__(self):
            super().__init__()
            self.state = torch.zeros(WIDTH)

        def forward(self, z):
            self.state.lerp_(z.mean(0), 0.5)
            return z + self.branch(z + self.state)


@own(source=[torch, np, random])
class Noise(Net):
    class block(Res):
        noise = {
            "torch": lambda z: torch.randn_like(z),
            "numpy": lambda z: torch.from_numpy(np.random.standard_normal(z.shape)).to(z),
            "random": lambda z: z.new_tensor([random.gauss(0, 1) for _ in range(WIDTH)]),
        }

        def forward(self, z):
            return z + self.branch(z) + 0.1 * self.noise[self.source](z)

    def __init__(self, source):
        super().__init__()
        for block in self.blocks:
            block.source = source.__name__


@own()
class RandomStart(Net):
    def through(self, z):
        return super().through(z + torch.randn_like(z))
