"""Models as users write them in which blocks get and return more than one tensor."""

import dataclasses
from typing import NamedTuple

import torch
from torch import nn

from own_base import WIDTH, Net, Res, own

# Several tensors handed on, in several structures.


@own()
class Reversible(Net):
    class block(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2))

        def forward(self, a, b):
            a = a + self.f(b)
            return a, b + self.g(a)

    def through(self, z):
        a = b = z
        for block in self.blocks:
            a, b = block(a, b)
        return b


@own()
class WaveNet(Net):
    """Blocks return what goes on and what the head sums."""

    class block(Res):
        def forward(self, z):
            change = self.branch(z)
            return z + change, torch.sin(change)

    def through(self, z):
        skips = 0
        for block in self.blocks:
            z, skip = block(z)
            skips = skips + skip
        return skips


@own()
class WaveNetSkipFirst(WaveNet):
    class block(WaveNet.block):
        def forward(self, z):
            return super().forward(z)[::-1]

    def through(self, z):
        skips = 0
        for block in self.blocks:
            skip, z = block(z)
            skips = skips + skip
        return skips + z


@own()
class Momentum(Net):
    class block(Res):
        def forward(self, z, velocity):
            velocity = 0.9 * velocity + self.branch(z)
            return z + velocity, velocity

    def through(self, z):
        velocity = torch.zeros_like(z)
        for block in self.blocks:
            z, velocity = block(z, velocity)
        return z


@own()
class DictionaryStates(Net):
    class block(Res):
        def forward(self, state):
            return {"step": state["step"] + 1, "z": state["z"] + self.branch(state["z"]) / (1 + state["step"])}

    def through(self, z):
        state = {"step": 0, "z": z}
        for block in self.blocks:
            state = block(state)
        return state["z"]


@own()
class DictionaryChangedInPlace(DictionaryStates):
    class block(Res):
        def forward(self, state):
            state["z"] = state["z"] + self.branch(state["z"])
            return state


class Pair(NamedTuple):
    z: torch.Tensor
    memory: torch.Tensor


@dataclasses.dataclass
class Record:
    z: torch.Tensor
    memory: torch.Tensor


@own(structure=[Pair, Record])
class States(Net):
    class block(Res):
        def forward(self, state):
            z = state.z + self.branch(state.z + state.memory)
            return type(state)(z=z, memory=state.memory * 0.5 + z)

    def __init__(self, structure):
        super().__init__()
        self.structure = structure

    def through(self, z):
        state = self.structure(z=z, memory=torch.zeros_like(z))
        for block in self.blocks:
            state = block(state)
        return state.z + state.memory


@own()
class HyperConnections(Net):
    """A list of streams of which each block reads and writes a mixture."""

    class block(Res):
        def forward(self, streams):
            change = self.branch(sum(streams) / len(streams))
            return [stream * (1 - number / 8) + change for number, stream in enumerate(streams)]

    def through(self, z):
        streams = [z, 2 * z, -z]
        for block in self.blocks:
            streams = block(streams)
        return sum(streams)


@own()
class AuxiliaryLoss(Net):
    """Each block returns a number beside its state, which the model sums into its output."""

    class block(Res):
        def forward(self, z):
            change = self.branch(z)
            return z + change, change.square().mean()

    def forward(self, x):
        z, total = self.stem(x), 0
        for block in self.blocks:
            z, loss = block(z)
            total = total + loss
        return self.head(z), total


@own()
class SharedBias(Net):
    """As T5's position bias: the first block makes it, the others get and return it."""

    class block(Res):
        def forward(self, z, bias=None):
            bias = self.a(z)[:, :1] if bias is None else bias
            return z + torch.sigmoid(bias) * self.branch(z), bias

    def through(self, z):
        bias = None
        for block in self.blocks:
            z, bias = block(z, bias=bias)
        return z


# Arguments.


@own(inputs=lambda: (torch.randn(6, 8), torch.rand(6, WIDTH) < 0.5))
class MaskFirst(Net):
    class block(Res):
        def forward(self, mask, z):
            return z + mask * self.branch(z)

    def forward(self, x, mask):
        z = self.stem(x)
        for block in self.blocks:
            z = block(mask, z)
        return self.head(z)


@own()
class MaskOfTheSameShape(Net):
    """The first argument has the representation's shape and type, and isn't it."""

    class block(Res):
        def forward(self, gate, z):
            return z + gate * self.branch(z)

    def through(self, z):
        gate = torch.sigmoid(z)
        for block in self.blocks:
            z = block(gate, z)
        return z


@own(inputs=lambda: torch.randn(3, 5, 8))
class QueryKeyValue(Net):
    class block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

        def forward(self, query, key, value):
            return query + self.attention(query, key, value, need_weights=False)[0]

    def through(self, z):
        for block in self.blocks:
            z = block(z, z, z)
        return z


@own()
class StemAgain(Net):
    """Every block gets the stem's output too, which for the first block is the representation itself."""

    class block(Res):
        def forward(self, z, first):
            return z + self.branch(z - first / 2)

    def through(self, z):
        first = z
        for block in self.blocks:
            z = block(z, first)
        return z


@own()
class StepsAsArguments(Net):
    """One block that is told the time."""

    class block(Res):
        def forward(self, z, time):
            return z + torch.sin(time) * self.branch(z)

    def through(self, z):
        for time in torch.linspace(0.5, 2, 5):
            z = self.blocks[0](z, time)
        return z

    def __init__(self):
        super().__init__(1)
