"""Models as users write them in which other stages and heads read what a stage makes."""

import torch
from torch import nn

from own_base import CLASSES, WIDTH, Net, Res, own

# Several towers, branches and stages.


class Tower(nn.Module):
    def __init__(self, number=3):
        super().__init__()
        self.stem, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.blocks = nn.Sequential(*(Res() for _ in range(number)))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


@own()
class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Tower(), Tower()

    def forward(self, x):
        return 3 * self.a(x) + self.b(x)


@own()
class Siamese(Tower):
    """One tower that sees two inputs: each of its blocks is executed twice."""

    def forward(self, x):
        return super().forward(x) - super().forward(x.flip(1))


@own()
class ParallelBranches(Net):
    """Two stages side by side whose blocks take turns."""

    def __init__(self):
        super().__init__()
        self.others = nn.ModuleList(Res() for _ in range(4))

    def through(self, z):
        other = z
        for block, beside in zip(self.blocks, self.others, strict=True):
            z, other = block(z), beside(other)
        return z * torch.sigmoid(other)


@own()
class ExchangingBranches(ParallelBranches):
    """As HRNet: the two stages read each other after every second block."""

    def through(self, z):
        other = z
        for number, (block, beside) in enumerate(zip(self.blocks, self.others, strict=True)):
            z, other = block(z), beside(other)
            if number % 2:
                z, other = z + other / 2, other + z / 2
        return z


@own()
class ArgumentsFromAnEarlierStage(Net):
    class block(Res):
        def forward(self, z, context):
            return z + torch.sigmoid(context) * self.branch(z)

    def __init__(self):
        super().__init__()
        self.early = nn.Sequential(*(Res() for _ in range(3)))

    def through(self, z):
        context = self.early(z)
        for block in self.blocks:
            z = block(z, context)
        return z


@own()
class OwnEncoderDecoder(ArgumentsFromAnEarlierStage):
    """The earlier stage's end is normed, and is all that the later one sees of it."""

    def through(self, z):
        context, target = torch.layer_norm(self.early(z), (WIDTH,)), z.roll(1, 0)
        for block in self.blocks:
            target = block(target, context)
        return target


@own(inputs=lambda: torch.randn(3, 3, 16, 16))
class UNet(nn.Module):
    class block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

        def forward(self, z):
            return z + torch.relu(self.conv(self.norm(z)))

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, CLASSES, 1)
        self.down = nn.ModuleList(nn.Sequential(*(self.block(8 * 2**level) for _ in range(3))) for level in range(2))
        self.shrink = nn.Conv2d(8, 16, 2, 2)
        self.grow = nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge = nn.Conv2d(16, 8, 1)
        self.up = nn.Sequential(*(self.block(8) for _ in range(3)))

    def forward(self, x):
        skip = self.down[0](self.stem(x))
        z = self.down[1](self.shrink(skip))
        return self.head(self.up(self.merge(torch.cat([self.grow(z), skip], 1))))


# Heads that read more than the end.


@own()
class DenseHead(Net):
    """As in DenseFormer: the head averages what all blocks make."""

    def through(self, z):
        states = [z]
        for block in self.blocks:
            states.append(block(states[-1]))
        return torch.stack(states).mean(0)


@own()
class DenseInputs(Net):
    """As in DenseFormer itself: every block reads an average of all before it."""

    def through(self, z):
        states = [z]
        for block in self.blocks:
            states.append(block(sum(states) / len(states)))
        return states[-1]


@own()
class EarlyExits(Net):
    def forward(self, x):
        z, outputs = self.stem(x), []
        for block in self.blocks:
            z = block(z)
            outputs.append(self.head(z))
        return outputs[-1], {"early": outputs[:-1]}


@own()
class SkipAround(Net):
    def through(self, z):
        return z / 2 + super().through(z)


@own()
class SomethingBetween(Net):
    def through(self, z):
        for number, block in enumerate(self.blocks):
            z = block(z) * (1 + number / 4)
        return z


@own()
class AddedOutside(Net):
    """The blocks are branches; the model adds them."""

    class block(Res):
        def forward(self, z):
            return self.branch(z)

    def through(self, z):
        for block in self.blocks:
            z = z + block(z)
        return z
