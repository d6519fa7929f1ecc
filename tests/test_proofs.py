"""Sharing the beginnings of paths has to be right on every batch, for every state of the weights, or be given up."""

import copy

import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.tasks.base import distance


class Res(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, z, gate=1.0):
        return z + gate * self.b(torch.relu(self.a(z)))


class Plain(nn.Module):
    def __init__(self, blocks=4):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.gate = nn.Linear(8, 8), nn.Linear(8, 5), nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Res() for _ in range(blocks))
        self.scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def run(self, x):
        states = [self.stem(x)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def forward(self, x):
        return self.head(self.run(x)[-1])


class ByBatchSize(Plain):
    def forward(self, x):
        states = self.run(x)
        return self.head(states[-1] + (states[2] if len(x) > 8 else 0))


class RareRows(Plain):
    def forward(self, x):
        states = self.run(x)
        return self.head(states[-1] + (x[:, 0] > 2).float()[:, None] * 5 * states[2])


class ByData(Plain):
    """The skip is not even an operation on batches without rare rows."""

    def forward(self, x):
        states = self.run(x)
        return self.head(states[-1] + (5 * states[2] if bool((x[:, 0] > 2).any()) else 0))


class HardGates(Plain):
    def forward(self, x):
        z = self.stem(x)
        for block in self.blocks:
            z = block(z, (torch.sigmoid(self.gate(z)).mean(1, keepdim=True) > 0.45).float())
        return self.head(z)


class ClosedSkip(Plain):
    def forward(self, x):
        states = self.run(x)
        return self.head(states[-1] + self.scale * states[2])


class Halting(Plain):
    """The depth depends on what the blocks have made."""

    def forward(self, x):
        z = self.stem(x)
        for block in self.blocks:
            z = block(z) if z.norm().item() < 1e6 else z
        return self.head(z)


class InPlace(Plain):
    def forward(self, x):
        x.mul_(2)
        return super().forward(x)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Plain()
        self.embedding = nn.Embedding(3, 8).bfloat16()

    def parameters(self, recurse=True):  # the half precision first
        return iter([*self.embedding.parameters(), *self.inner.parameters()])

    def forward(self, x):
        return self.inner((x - 1000) + self.embedding.weight[0].float())


def batches(shift=0.0, count=3):
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        x = torch.randn(16, 8, generator=generator)
        x[:5, 0] = 0  # the first rows, on which a model is adapted, are not rare
        x[7, 0] = 3
        made.append((x + shift, torch.randint(5, (16,), generator=generator)))
    return made


def by_hand(model, data, path, blocks=4):
    """The error and the cross-entropy of one path, by whole passes with patched blocks, each batch in a fresh model."""
    errors, entropies = [], []
    for x, y in data:
        fresh = copy.deepcopy(model).eval()
        stage = getattr(fresh, "inner", fresh).blocks
        for number, block in enumerate(stage):
            times, forward = path.count(number), block.forward

            def several(z, *further, forward=forward, times=times):
                for _ in range(times):
                    z = forward(z, *further)
                return z

            block.forward = several
        with torch.no_grad():
            output = fresh(x.clone())
        errors.append((output.argmax(1) != y).float())
        entropies.append(nn.functional.cross_entropy(output, y, reduction="none"))
    return torch.cat(errors).mean().item(), torch.cat(entropies).mean().item()


def assert_as_by_hand(report, model, data):
    curves = report.curves[report.curves.metric.isin(["error", "cross_entropy"])]
    for path, rows in curves.groupby("path"):
        error, entropy = by_hand(model, data, path)
        found = rows.drop_duplicates("metric").set_index("metric").value
        assert (found.error, found.cross_entropy) == pytest.approx((error, entropy), rel=1e-5), path


@pytest.mark.parametrize("make", [ByBatchSize, RareRows, ByData, HardGates, ClosedSkip, Halting, InPlace, Plain])
def test_every_batch_is_measured_as_by_hand(make):
    model, data = make(), batches()
    kept = [x.clone() for x, _ in data]
    report = ic.measure(model, data, resamples=0, extra_evaluations=2)
    assert_as_by_hand(report, model, data)
    assert all(torch.equal(x, before) for (x, _), before in zip(data, kept, strict=True)), "the user's batches"
    (stage,) = report.options["stages"]
    assert stage.endswith("shared") == (make in (InPlace, Plain))


@pytest.mark.parametrize(
    "make, why",
    [
        (RareRows, "more than the one tensor that is handed on depends on its blocks"),
        (ClosedSkip, "more than the one tensor that is handed on depends on its blocks"),
        (HardGates, "arguments of its blocks are computed from what the blocks before have made"),
        (Halting, "what the model does depends on values that its blocks have made"),
    ],
)
def test_what_gets_past_is_seen_where_it_changes_nothing(make, why):
    stage = ic.adapt(make(), torch.zeros(4, 8)).stages[0]
    assert stage.whole == why


def test_what_only_a_later_batch_shows_is_seen_there():
    adapted = ic.adapt(ByData(), batches()[0][0][:4])
    assert adapted.stages[0].shared
    assert_as_by_hand(ic.measure(adapted, batches(), resamples=0, extra_evaluations=2), adapted.model, batches())
    assert adapted.stages[0].whole.endswith("(on a later batch)")


def test_a_model_that_was_adapted_before_training_is_measured_as_it_is_now():
    model, data = ClosedSkip(), batches()
    adapted = ic.adapt(model, data[0][0])
    with torch.no_grad():
        model.scale.fill_(2.0)
    assert_as_by_hand(ic.measure(adapted, data, resamples=0, extra_evaluations=2), model, data)


class Running(Plain):
    def forward(self, x):
        z = self.run(x)[-1]
        self.mean.mul_(0.5).add_(0.5 * z.mean(0))
        return self.head(z - self.mean)


def test_no_state_goes_from_batch_to_batch_or_from_path_to_path():
    model = Running()
    data = [(x + number, y) for number, (x, y) in enumerate(batches())]
    report = ic.measure(model, data, resamples=0, extra_evaluations=2)
    assert_as_by_hand(report, model, data)
    more = ic.measure(model, data, resamples=0, extra_evaluations=2, families=["repetition", "reversal"])
    same = more.curves.merge(report.curves, on=["stage", "perturbation", "position", "metric"])
    assert len(same) == len(report.curves) and (same.value_x == same.value_y).all()
    one = ic.similarity(model, data)
    assert one.equals(ic.similarity(model, data)) and not model.mean.any()


def test_inputs_keep_their_precision_where_parameters_differ():
    model, data = Mixed(), batches(shift=1000.0)
    assert_as_by_hand(ic.measure(model, data, resamples=0, extra_evaluations=2), model, data)


class Memory(nn.Module):
    """Blocks get a memory first and the representation second, with a norm between them."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.v = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, memory, z):
            return z + torch.tanh(self.q(z)) * self.v(memory)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))

    def forward(self, x, dropped=None):
        memory = z = self.stem(x)
        memory = memory * 0.5
        for number, (block, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            z = norm(z) if number == dropped else block(memory, norm(z))
        return self.head(z)


def test_a_memory_is_not_taken_for_the_representation():
    model, data = Memory().eval(), batches()
    adapted = ic.adapt(model, data[0][0], stages=["blocks"])
    assert adapted.stages[0].found.identity_share > 0.5
    report = ic.measure(adapted, data, resamples=0, extra_evaluations=1)
    found = report.curves.query("perturbation == 'drop-out' and metric == 'cross_entropy'").value.tolist()
    with torch.no_grad():
        expected = [
            torch.cat([nn.functional.cross_entropy(model(x, dropped), y, reduction="none") for x, y in data]).mean()
            for dropped in range(3)
        ]
    assert found == pytest.approx([float(value) for value in expected], rel=1e-5)


def test_distances_are_taken_in_the_precision_of_the_model():
    a = torch.full((2, 3), 100.0, dtype=torch.float64)
    assert distance(a + 1e-9, a).tolist() == pytest.approx([3**0.5 * 1e-9] * 2, rel=1e-4)
    assert distance(a.half(), a.half()).dtype == torch.float32


class OtherOrder(Plain):
    def forward(self, x):
        z = self.stem(x)
        for block in self.blocks if x.abs().max() < 5 else reversed(self.blocks):
            z = block(z)
        return self.head(z)


def test_a_batch_with_another_order_of_blocks_is_told_as_such():
    data = batches()
    data[1][0][0, 0] = 9.0
    with pytest.raises(ic.InputError, match="on this batch, the model calls the blocks of stage 'blocks' in another"):
        ic.measure(OtherOrder(), data, resamples=0)


def test_what_takes_too_much_memory_is_refused_before_the_work():
    seen = []
    with pytest.raises(ic.InputError, match="resamples=1000000000000 of up to"):
        ic.measure(Plain(), batches(), resamples=10**12, progress=lambda *done: seen.append(done))
    assert not seen


def test_complex_targets_are_no_class_numbers():
    with pytest.raises(ic.InputError, match="neither class numbers nor 0/1 rows"):
        ic.measure(Plain(), [(x, y.to(torch.complex64)) for x, y in batches()])
