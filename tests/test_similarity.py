import math

import pytest
import torch
from torch import nn

import iterconv as ic

BATCHES = [(torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)), torch.zeros(n).long()) for n in (5, 3)]


def make_net(residual="ordinary"):
    torch.manual_seed(0)
    return ic.models.resnet(width=3, blocks=3, stages=2, in_channels=1, residual=residual, init="independent")


@pytest.mark.parametrize("residual", ["ordinary", "proper"])
def test_updates_equal_a_naive_evaluation(residual):
    net = make_net(residual).eval()
    table = ic.similarity(net, BATCHES).set_index(["stage", "kind", "block", "other"]).value
    cosines = []
    with torch.no_grad():
        for image in torch.cat([images for images, _ in BATCHES]):
            z = net.transitions[0](net.stages[0](net.stem(image[None])))
            states = [z]
            for index in range(3):
                states.append(net.stages[1].step(index, states[-1], z))
            updates = [after - before for before, after in zip(states, states[1:], strict=False)]
            cosines.append(nn.functional.cosine_similarity(updates[0].flatten(), updates[2].flatten(), dim=0).item())
    assert table[1, "updates", 0, 2] == pytest.approx(sum(cosines) / 8, abs=1e-5)
    assert table[1, "updates", 2, 0] == pytest.approx(table[1, "updates", 0, 2])
    assert table[0, "updates", 1, 1] == pytest.approx(1)


def test_weights_are_cosines_of_all_parameters():
    net = make_net()
    table = ic.similarity(net, BATCHES).set_index(["stage", "kind", "block", "other"]).value
    a, b = (torch.cat([p.detach().flatten() for p in net.stages[0].blocks[i].parameters()]).double() for i in (0, 1))
    assert table[0, "weights", 0, 1] == pytest.approx(float(a @ b / a.norm() / b.norm()))
    net.stages[0].blocks[1].load_state_dict(net.stages[0].blocks[0].state_dict())
    assert ic.similarity(net, BATCHES).set_index(["stage", "kind", "block", "other"]).value[
        0, "weights", 0, 1
    ] == pytest.approx(1)


def test_blocks_of_different_structure_have_no_weight_similarity():
    class Block(nn.Module):
        def __init__(self, hidden):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, hidden), nn.Linear(hidden, 4)

        def forward(self, z):
            return z + self.outer(torch.relu(self.inner(z)))

    model = nn.Sequential(Block(3), Block(5))
    table = ic.similarity(model, [torch.randn(6, 4)])
    weights = table[table.kind == "weights"].set_index(["block", "other"]).value
    assert math.isnan(weights[0, 1]) and weights[1, 1] == pytest.approx(1)
    assert table[table.kind == "updates"].value.notna().all()


def test_without_batches_nothing_is_measured():
    with pytest.raises(ic.InputError, match="no batches"):
        ic.similarity(make_net(), [])


class Encoder(nn.Module):
    """A transformer that ignores padding and reads out the first token."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layers = (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(3))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 4)

    def forward(self, input_ids, attention_mask):
        z = self.embedding(input_ids)
        for layer in self.layers:
            z = layer(z, src_key_padding_mask=attention_mask == 0)
        return self.head(z[:, 0])


def test_padding_counts_neither_in_updates_nor_in_distances():
    torch.manual_seed(0)
    model = Encoder()
    ids, mask = torch.randint(20, (4, 6)), torch.ones(4, 6).long()
    padded = {"input_ids": torch.cat([ids, torch.zeros(4, 10).long()], 1), "attention_mask": mask.new_zeros(4, 16)}
    padded["attention_mask"][:, :6] = 1
    alone = {"input_ids": ids, "attention_mask": mask}
    cosines, distances = [], []
    for batch in (alone, padded):
        adapted = ic.adapt(model, batch)
        table = ic.similarity(adapted, [batch])
        cosines.append(table[table.kind == "updates"].value.to_numpy())
        curves = ic.measure(adapted, [batch], against="predictions", resamples=0).curves
        distances.append(curves[curves.metric == "distance"].value.to_numpy())
    assert distances[0].max() > 0.1 and abs(cosines[0]).min() < 0.9
    assert cosines[1] == pytest.approx(cosines[0], abs=1e-5)
    assert distances[1] == pytest.approx(distances[0], abs=1e-4)
