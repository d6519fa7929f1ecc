"""Passes of the whole model whose beginning is recorded have to give the bits of passes that are run from the start."""

from collections import Counter

import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.paths import FAMILIES
from own_models import OWN
from patched import patched

FAMILIES_TRIED = ("early read-out", "drop-out", "extra evaluation", "repetition", "swap", "reversal")


class Res(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, z):
        return z + self.b(torch.relu(self.a(z)))


class Readers(nn.Module):
    """The head reads every block of two stages, so that no stage is shared."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.between, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.first, self.second = (nn.ModuleList(Res() for _ in range(4)) for _ in range(2))
        self.memory = None

    def forward(self, x):
        z = self.stem(x)
        total = torch.zeros_like(z)
        for blocks in (self.first, self.second):
            for block in blocks:
                z = block(z)
                total = total + z
            z = self.between(z)
        return self.head(total)


class Noted(nn.Linear):
    """It leaves its result where a later part of the model finds it, from the third row of a batch on if it is rare."""

    def __init__(self, owner, rare):
        super().__init__(8, 8)
        self.owners, self.rare = (owner,), rare  # a tuple, as the owner is no child

    def forward(self, x):
        made = super().forward(x)
        if not self.rare or bool((x > 2).any()):
            self.owners[0].memory = made
        return made


class Remembers(Readers):
    def __init__(self, rare=False):
        super().__init__()
        self.stem = Noted(self, rare)

    def forward(self, x):
        made = super().forward(x)
        return made if self.memory is None else made + self.memory[:, :5]


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(8)


class Draws(Readers):
    def __init__(self):
        super().__init__()
        self.stem, self.between = Noisy(8, 8), Noisy(8, 8)


def routes_of(adapted):
    full = ic.paths.full_route(adapted.stages)
    for number, path in enumerate(full):
        for family in FAMILIES_TRIED:
            for perturbation in FAMILIES[family](len(path))[:5]:
                yield number, (*full[:number], perturbation.path, *full[number + 1 :])


def rows(count=6):
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)


def assert_equal_to_the_oracle(model, adapted, inputs):
    with ic.paths.untouched(model):
        bound = adapted.bind(inputs)
        for number, route in routes_of(adapted):
            found, whole = bound.alone(route), bound.whole(route)
            assert torch.equal(found.output, whole.output), route
            assert all(map(torch.equal, found.stage_outputs, whole.stage_outputs)), route
            bound.start.restore()
            expected = patched(model, adapted.stages[number].blocks, route[number], inputs)
            assert torch.equal(found.output, expected), route
        return bound


@pytest.mark.parametrize("name", ["readers", "wave_net", "two_towers"])
def test_behind_the_trunk_every_path_has_the_bits_of_a_whole_pass(name):
    model, inputs = (Readers().eval(), rows()) if name == "readers" else OWN[name]()
    adapted = ic.adapt(model, inputs)
    assert not all(stage.shared for stage in adapted.stages)
    assert assert_equal_to_the_oracle(model, adapted, inputs).trunk


def test_only_what_follows_the_first_perturbed_block_is_executed():
    model, inputs = Readers().eval(), rows()
    adapted, executed = ic.adapt(model, inputs), Counter()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: executed.update([name]))
    with ic.paths.untouched(model):
        bound = adapted.bind(inputs)
        executed.clear()
        bound.alone(((0, 1, 2, 3), (0, 1, 3)))
    blocks = {name: count for name, count in executed.items() if name.count(".") == 1}
    assert blocks == {"second.3": 1}
    assert executed["stem"] == 0 and executed["between"] == 1 and executed["head"] == 1


@pytest.mark.parametrize("make", [Remembers, Draws])
def test_a_trunk_that_does_more_than_to_return_is_executed(make):
    model, inputs = make().eval(), rows()
    adapted = ic.adapt(model, inputs)
    assert not assert_equal_to_the_oracle(model, adapted, inputs).trunk


def test_what_only_a_later_batch_shows_gives_the_trunk_up_there():
    model, inputs = Remembers(rare=True).eval(), rows()
    adapted = ic.adapt(model, inputs)
    assert assert_equal_to_the_oracle(model, adapted, inputs).trunk
    assert not assert_equal_to_the_oracle(model, adapted, inputs + 3 * (torch.arange(6) == 4)[:, None]).trunk
