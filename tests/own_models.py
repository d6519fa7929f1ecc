"""Models as users write them: small, of random weights, each with a batch; where there is one stage it is `blocks`.

`OWN[name]()` gives a model in evaluation and its inputs: a tensor, a tuple or a dictionary of keywords.
"""

import dataclasses
import random
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

WIDTH, CLASSES = 16, 7
OWN = {}


def own(*, inputs=None, **options):
    """Enter a class into the catalogue, once for each choice of its first option if that is a list."""

    def enter(cls):
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in cls.__name__).lstrip("_")
        variants = [{}] if not options else [{key: value} for key, values in options.items() for value in values]
        for variant in variants:
            label = "_".join([name, *(str(getattr(value, "__name__", value)) for value in variant.values())])
            OWN[label] = lambda variant=variant: made(lambda: cls(**variant), inputs or (lambda: torch.randn(6, 8)))
        return cls

    return enter


def randomised(model):
    """Scales and heads that start at 0 would hide every block."""
    for name, parameter in model.named_parameters():
        if "bias" not in name and parameter.is_floating_point() and (parameter.detach().abs() < 1e-4).all():
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


def made(build, inputs):
    torch.manual_seed(0)
    model = randomised(build())
    return model, inputs()


def changed(build, change):
    """An entry that is another one's model after a change: a hook, a compilation, a quantisation."""

    def entry():
        model, inputs = build()
        other = change(model, inputs)
        return model if other is None else other, inputs

    return entry


class Res(nn.Module):
    """z + f(z)."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.a, self.b = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def branch(self, z):
        return self.b(torch.tanh(self.a(z)))

    def forward(self, z):
        return z + self.branch(z)


class Net(nn.Module):
    """Stem, four blocks, head; a subclass says how the blocks are called."""

    block = Res

    def __init__(self, number=4):
        super().__init__()
        self.stem = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList(self.block() for _ in range(number))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.through(self.stem(x)))

    def through(self, z):
        for block in self.blocks:
            z = block(z)
        return z


@own()
class Plain(Net):
    pass


@own()
class KeywordOnly(Net):
    class block(Res):
        def forward(self, *, z, scale):
            return z + scale * self.branch(z)

    def through(self, z):
        for number, block in enumerate(self.blocks):
            z = block(scale=1 + number, z=z)
        return z


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


# torch's own transformers.


def padded():
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4:] = True
    return {"src": torch.randn(3, 6, WIDTH), "src_key_padding_mask": mask}


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True, **options)


def sequence_first():
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it could be faster
        return nn.Transformer(WIDTH, 4, 3, 3, 32)


OWN["torch_encoder"] = lambda: made(lambda: nn.TransformerEncoder(encoder_layer(), 4), lambda: torch.randn(3, 6, WIDTH))
OWN["torch_encoder_padded"] = lambda: made(lambda: nn.TransformerEncoder(encoder_layer(), 4), padded)
OWN["torch_encoder_norm_first"] = lambda: made(
    lambda: nn.TransformerEncoder(encoder_layer(norm_first=True), 4, nn.LayerNorm(WIDTH), False), padded
)
OWN["torch_transformer"] = lambda: made(
    lambda: nn.Transformer(WIDTH, 4, 3, 3, 32, batch_first=True),
    lambda: (torch.randn(3, 6, WIDTH), torch.randn(3, 5, WIDTH)),
)
OWN["torch_transformer_sequence_first"] = lambda: made(
    sequence_first, lambda: (torch.randn(6, 3, WIDTH), torch.randn(5, 3, WIDTH))
)


# What is done to models.


def compiled(model, inputs, run=False):
    model = torch.compile(model, backend="eager")
    if run:
        with torch.no_grad():
            model(inputs)
    return model


def compile_blocks(model, inputs):
    for block in model.blocks:
        block.compile(backend="eager")


def add_hook(model, inputs):
    model.blocks[1].register_forward_hook(lambda block, args, output: output * 1.5)
    model.blocks[2].register_forward_pre_hook(lambda block, args: (args[0] - 0.5,))


def quantised(model, inputs):
    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = next(engine for engine in ("x86", "fbgemm", "qnnpack") if engine in engines)
    with warnings.catch_warnings(action="ignore"):  # that all this will be gone
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


def spectral(model, inputs):
    for block in model.blocks:
        nn.utils.parametrizations.spectral_norm(block.a)
        nn.utils.parametrizations.weight_norm(block.b)
    model.eval()


OWN["compiled"] = changed(OWN["plain"], compiled)
OWN["compiled_and_run"] = changed(OWN["plain"], lambda model, inputs: compiled(model, inputs, run=True))
OWN["compiled_blocks"] = changed(OWN["plain"], compile_blocks)
OWN["hook_changes_output"] = changed(OWN["plain"], add_hook)
OWN["quantised"] = changed(OWN["plain"], quantised)
OWN["parametrised"] = changed(OWN["plain"], spectral)
OWN["doubles"] = lambda: made(lambda: Plain().double(), lambda: torch.randn(6, 8).double())
OWN["bfloat16"] = lambda: made(lambda: Plain().bfloat16(), lambda: torch.randn(6, 8).bfloat16())
