"""Errors against executed blocks, the best depth, overthinking, and the depth at which examples are decided."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.measuring.shared_blocks import describe_shared, find_shared


def make_net(stages=2, blocks=3):
    torch.manual_seed(0)
    net = ic.models.resnet(4, blocks, stages, in_channels=1)
    for _ in range(3):
        net(torch.randn(32, 1, 8, 8))
    return net.eval()


def make_batches(n=40, size=15):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(n, 1, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)
    return list(zip(images.split(size), labels.split(size), strict=True))


def predictions(net, images, extra):
    """The predictions after 1, 2, ... blocks of all stages, and after further evaluations of the last one."""
    order = [(stage, block) for stage in range(len(net.stages)) for block in range(len(net.stages[0].blocks))]
    order += [order[-1]] * extra
    found = []
    with torch.no_grad():
        for depth in range(1, len(order) + 1):
            z = net.stem(images)
            for stage in range(len(net.stages)):
                entered = z = net.transitions[stage - 1](z) if stage else z
                for own, block in order[:depth]:
                    z = net.stages[stage].step(block, z, entered) if own == stage else z
            found.append(net.head(z).argmax(1))
    return torch.stack(found)


def test_every_column_equals_a_naive_evaluation():
    net, batches = make_net(), make_batches()
    found = ic.depth(net, batches, extra_evaluations=4)
    images, labels = map(torch.cat, zip(*batches, strict=True))
    predicted = predictions(net, images, 4)
    wrong = (predicted != labels).double()
    assert found.curve.depth.tolist() == list(range(1, 11)) and found.options["trained"] == 6
    assert (
        found.curve.stage.tolist() == [0] * 3 + [1] * 7 and found.curve.block.tolist() == [0, 1, 2, 0, 1, 2] + [2] * 4
    )
    assert found.curve.error.to_numpy() == pytest.approx(wrong.mean(1).numpy())
    assert found.curve.agreement.to_numpy() == pytest.approx((predicted == predicted[5]).double().mean(1).numpy())
    excess = wrong - wrong[wrong.mean(1).argmin()]
    assert found.curve.excess.to_numpy() == pytest.approx(excess.mean(1).numpy())
    assert found.curve.excess_se.to_numpy() == pytest.approx((excess.std(1) / 40**0.5).numpy())
    for row in found.examples.itertuples():
        own = predicted[:, row.example]
        stays = [depth for depth in range(1, 7) if (own[depth - 1 : 6] == own[5]).all()]
        assert row.settling_depth == min(stays)
        assert row.stays == bool((own[6:] == own[5]).all()) and row.right == bool(own[5] == labels[row.example])
        assert row.right_anywhere == bool((own[:6] == labels[row.example]).any())
    assert found.best == int(wrong.mean(1).argmin()) + 1
    own_columns = pd.DataFrame({"example": range(40), "kind": np.arange(40) % 2})
    assert len(found.examples.merge(own_columns, on="example")) == 40


class Add(nn.Module):
    def __init__(self, amount):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(float(amount)))

    def forward(self, z):
        return z + self.amount


class Near(nn.Module):
    """Class 0 if the state is near 3, else class 1."""

    def forward(self, z):
        return torch.cat([torch.zeros_like(z), (z - 3).abs() - 0.5], 1)


def make_counter(blocks):
    return ic.StagedModel(nn.Identity(), [ic.Stage([Add(1) for _ in range(blocks)])], [], Near())


def test_overthinking_is_where_it_gets_worse_for_good():
    batch = [(torch.zeros(30, 1), torch.zeros(30).long())]
    found = ic.depth(make_counter(5), batch, extra_evaluations=2)
    assert found.curve.error.tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert (found.best, found.overthinking) == (3, 4)
    assert (found.examples.settling_depth == 4).all(), "the prediction of the trained depth, right or wrong"
    assert found.examples.right_anywhere.all() and not found.examples.right.any() and found.examples.stays.all()
    patient = ic.depth(make_counter(3), batch, extra_evaluations=0)
    assert (patient.best, patient.overthinking) == (3, None) and (patient.examples.settling_depth == 3).all()
    few = ic.depth(make_counter(5), [(torch.zeros(1, 1), torch.zeros(1).long())])
    assert few.best == 3


def test_a_foreign_model_and_a_file(tmp_path):
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, z):
            return z + torch.tanh(self.inner(z))

    model = nn.Sequential(nn.Linear(4, 6), *(Block() for _ in range(3)), nn.Linear(6, 3))
    inputs = torch.randn(20, 4)
    found = ic.depth(model, [inputs], against="predictions", extra_evaluations=2)
    with torch.no_grad():
        outputs = [model[:1], model[:2], model[:3], model[:4]]
        predicted = torch.stack([model[4](part(inputs)).argmax(1) for part in outputs])
    assert found.curve.agreement[:3].to_numpy() == pytest.approx(
        (predicted[1:] == predicted[3]).double().mean(1).numpy()
    )
    for name in ("d.json", "d.parquet"):
        found.save(tmp_path / name)
        again = ic.Depth.load(tmp_path / name)
        pd.testing.assert_frame_equal(again.curve, found.curve)
        pd.testing.assert_frame_equal(again.examples, found.examples)
        assert again.overthinking == found.overthinking
    found.plot(tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 10_000
    with pytest.raises(ic.InputError, match="extra_evaluations=-1 is too small"):
        ic.depth(model, [inputs], extra_evaluations=-1)
    with pytest.raises(ic.InputError, match="against='x' is unknown"):
        ic.depth(model, [inputs], against="x")


def test_stages_that_share_their_weights_are_told():
    tied, other = Add(1), Add(1)
    shared = ic.StagedModel(nn.Identity(), [ic.Stage([other, Add(2)]), ic.Stage([tied] * 3)], [nn.Identity()], Near())
    assert find_shared(shared.stages) == [1]
    assert describe_shared([1]).startswith("the blocks of stage 2 share their weights")
    assert describe_shared([0, 1]).startswith("the blocks of stages 1, 2 share") and describe_shared([]) == ""
    copies = Add(3), Add(4)
    copies[1].amount = copies[0].amount
    assert find_shared([ic.Stage(copies), ic.Stage([tied]), ic.Stage([nn.ReLU(), nn.ReLU()])]) == [0]
    assert find_shared(make_counter(3).stages) == [0], "copies that are equal, as a coupling of 1 keeps them"
    assert find_shared([ic.Stage([Add(1), Add(1), Add(2)]), ic.Stage([Add(1), nn.Linear(1, 1)])]) == []
    norms = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    assert find_shared([ic.Stage(norms)]) == [0]
    norms[0].running_mean += 1
    assert find_shared([ic.Stage(norms)]) == [], "equal weights with statistics of their own are different functions"
    model = ic.StagedModel(nn.Identity(), [ic.Stage([tied] * 3)], [], Near())
    report = ic.measure(model, [(torch.zeros(4, 1), torch.zeros(4).long())], resamples=0)
    indices = report.indices.set_index(["stage", "index"])
    assert report.options["shared_weights"] == [0] and not indices.defined[0, "recurrence"]
    legends = [text.get_text() for axes in report.plot().axes for text in axes.get_legend().get_texts()]
    assert any("RI" in text for text in legends)
