"""What models as users write them are made of: the catalogue, a residual block, and a stem, blocks and a head."""

import torch
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
