"""The audit of shared parameters, against gradients of networks that are unrolled by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import iterconv as ic
from iterconv.tying.sharing import COLUMNS

X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4


def rows_of(model, batches=((X, Y),), **options):
    table = ic.sharing(model, list(batches), **options)
    assert list(table.columns) == list(COLUMNS)
    return {row.names: row for row in table.itertuples()}


class Loop(nn.Module):
    """One linear layer that is applied several times; the first applications may be without gradient."""

    def __init__(self, times=3, detached=0, silent=False):
        super().__init__()
        self.layer, self.times, self.detached, self.silent = nn.Linear(4, 4), times, detached, silent

    def forward(self, z):
        for number in range(self.times):
            if number < self.detached and self.silent:
                with torch.no_grad():
                    z = torch.tanh(self.layer(z))
            else:
                z = torch.tanh(self.layer(z))
                z = z.detach() if number < self.detached else z
        return z


def unrolled_shares(model, name):
    """The norms of the gradients of clones, one for each application, over their sum."""
    parameters = [{n: p.detach().clone().requires_grad_() for n, p in model.layer.named_parameters()} for _ in range(3)]
    z = X
    for number, own in enumerate(parameters):
        z = torch.tanh(F.linear(z, own["weight"], own["bias"]))
        z = z.detach() if number < model.detached else z
    F.cross_entropy(z, Y).backward()
    norms = [0.0 if own[name].grad is None else float(own[name].grad.norm()) for own in parameters]
    return [norm / sum(norms) for norm in norms]


@pytest.mark.parametrize("detached, silent", [(0, False), (1, False), (2, True)])
def test_applications_have_the_gradients_of_a_network_unrolled_by_hand(detached, silent):
    torch.manual_seed(0)
    model = Loop(detached=detached, silent=silent)
    rows = rows_of(model)
    for name in ("weight", "bias"):
        row = rows[f"layer.{name}",]
        assert row.gradient_shares == pytest.approx(unrolled_shares(model, name), rel=1e-4)
        assert (row.applications, row.without_gradient) == (3, detached)
        assert (row.verdict, row.shared_storage, row.places) == ("shared", True, 1)
    assert 0.2 < max(rows["layer.weight",].gradient_shares) and sum(rows["layer.bias",].gradient_shares) == 1


def blocks(kind):
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    if kind == "one module":
        second = first
    if kind == "one parameter":
        second.weight = first.weight
    if kind == "copy":
        second = copy.deepcopy(first)
    if kind == "one storage":
        second.weight = nn.Parameter(first.weight.data)
    return nn.Sequential(first, nn.Tanh(), second)


@pytest.mark.parametrize(
    "kind, verdict",
    [
        ("one module", "shared"),
        ("one parameter", "shared"),
        ("one storage", "shared"),
        ("copy", "lost"),
        ("", "separate"),
    ],
)
def test_a_step_pulls_lost_parameters_apart_and_keeps_shared_ones_equal(kind, verdict):
    model = blocks(kind)
    rows = rows_of(model)
    names = ("0.weight", "2.weight")
    if verdict == "separate":
        assert [rows[name,].verdict for name in names] == ["separate"] * 2
        assert rows["0.weight",].gradient_shares == (1.0,) and not rows["0.weight",].shared_storage
        return
    row = rows[names]
    assert (row.verdict, row.places, row.applications) == (verdict, 2, 2)
    assert row.shared_storage == (verdict == "shared") and min(row.gradient_shares) > 0
    assert torch.equal(model[0].weight, model[2].weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    assert torch.equal(model[0].weight, model[2].weight) == (verdict == "shared")


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, z):
        return z + self.linear(self.norm(z))


def test_equal_constants_are_lost_only_with_the_block_around_them():
    torch.manual_seed(0)
    apart = rows_of(nn.Sequential(Normed(), Normed()))
    assert len(apart) == 8 and {row.verdict for row in apart.values()} == {"separate"}
    first = Normed()
    copied = rows_of(nn.Sequential(first, copy.deepcopy(first), Normed()))
    lost = {names for names, row in copied.items() if row.verdict == "lost"}
    parts = ("norm.weight", "norm.bias", "linear.weight", "linear.bias")
    assert lost == {(f"0.{part}", f"1.{part}") for part in parts}
    assert copied["2.norm.weight",].verdict == "separate"


class Reader(nn.Module):
    """An output layer that reads the matrix of the embedding by itself."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 4)

    def forward(self, ids):
        return F.linear(torch.tanh(self.embedding(ids)), self.embedding.weight)


def test_uses_outside_of_a_modules_calls_are_applications():
    torch.manual_seed(0)
    model = Reader()
    [row] = rows_of(model, [(Y, Y.flip(0))]).values()
    inner, outer = (model.embedding.weight.detach().clone().requires_grad_() for _ in range(2))
    F.cross_entropy(F.linear(torch.tanh(F.embedding(Y, inner)), outer), Y.flip(0)).backward()
    norms = [float(inner.grad.norm()), float(outer.grad.norm())]
    assert row.gradient_shares == pytest.approx([norm / sum(norms) for norm in norms], rel=1e-4)
    assert (row.verdict, row.applications) == ("shared", 2)


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z):
        for _ in range(2):
            made = self.layer(z, z, z) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(z)
            z = z + made[0]
        return z.mean(1)


@pytest.mark.parametrize("layer", [nn.MultiheadAttention(4, 2, batch_first=True), nn.LSTM(4, 4, batch_first=True)])
def test_parameters_that_torch_reads_past_the_modules_are_counted(layer):
    z = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(1))
    for row in rows_of(Twice(layer), [(z, Y)]).values():
        assert (row.applications, row.without_gradient, row.verdict) == (2, 0, "shared"), row.names


def test_the_audit_leaves_no_trace():
    model = Loop()
    model.train()
    before, parameters, random = copy.deepcopy(model.state_dict()), list(model.parameters()), torch.get_rng_state()
    rows_of(model, [(X, Y), (X[:3], Y[:3])])
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True)) and model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in parameters) and torch.equal(torch.get_rng_state(), random)
    assert not model.layer._forward_pre_hooks and not model.layer._forward_hooks
    with pytest.raises(ic.InputError, match="rejects the batch"):
        ic.sharing(model, [(torch.randn(2, 5), Y[:2])])
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_a_tied_model_is_shared_and_batches_need_no_targets():
    torch.manual_seed(0)
    model = nn.Sequential(Normed(), Normed(), Normed())
    tied = ic.tie(model, [(X, Y)], 1, steps=(0, 0, 0)).model
    rows = rows_of(tied, [X])
    assert {row.verdict for row in rows.values()} == {"shared"}
    assert rows["0.linear.weight", "1.linear.weight", "2.linear.weight"].applications == 3


@pytest.mark.parametrize(
    "model, batches, message",
    [
        (nn.Tanh(), [X], "no parameters"),
        (nn.Linear(4, 4), [], "no batches"),
        (max, [X], "is not a torch.nn.Module"),
        (nn.Linear(4, 3), [(X, Y)], "out of range"),
    ],
)
def test_what_cannot_be_audited_is_refused(model, batches, message):
    with pytest.raises(ic.InputError, match=message):
        ic.sharing(model, batches)
