"""Tasks: rows of pixels and positions, compared with errors that are computed by hand."""

import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.tasks import Classes, Embeddings, LabelSets, Pixels, Sequences, Tokens, task_of


class Add(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z):
        return z + self.inner(z)


def segmenter(classes=3):
    torch.manual_seed(0)
    blocks = (Add(nn.Conv2d(4, 4, 3, padding=1)) for _ in range(3))
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sequential(*blocks), nn.Conv2d(4, classes, 1)).eval()


def without(model, *dropped):
    """The model's own output without some of its blocks."""
    z = model[0](IMAGES)
    for number, block in enumerate(model[1]):
        z = z if number in dropped else block(z)
    return model[2](z)


IMAGES = torch.randn(5, 1, 6, 7, generator=torch.Generator().manual_seed(1))


def dropouts(report, metric="error", stage=0):
    curves = report.curves.query("perturbation == 'drop-out' and metric == @metric and stage == @stage")
    return curves.sort_values("position").value.tolist()


def test_pixels_are_rows_and_void_ones_do_not_count():
    model = segmenter()
    targets = torch.randint(3, (5, 6, 7))
    targets[:, 2] = 255
    counted = targets != 255
    with torch.no_grad():
        expected = [(without(model, block).argmax(1) != targets)[counted].float().mean().item() for block in range(3)]
        moved = (model[1](model[0](IMAGES)) - model[1][1:](model[0](IMAGES))).norm(dim=1)[counted].mean().item()
    report = ic.measure(model, [(IMAGES[:3], targets[:3]), (IMAGES[3:], targets[3:])], task=Pixels(), resamples=20)
    assert dropouts(report) == pytest.approx(expected)
    assert dropouts(report, "distance")[0] == pytest.approx(moved, rel=1e-5)
    assert report.options["examples"] == int(counted.sum()) and report.options["resampled_units"] == 5
    assert report.options["chance"] == pytest.approx(2 / 3)
    other = ic.measure(model, [IMAGES], task=Pixels(), against="predictions", resamples=0)
    assert other.options["examples"] == targets.numel() and other.intact_error == 0


def test_a_plan_sees_pixels_too():
    model = segmenter()
    with torch.no_grad():
        targets = without(model, 1).argmax(1)
    plan = ic.plan(model, [(IMAGES, targets), (IMAGES, targets)], task=Pixels(), budget=2, resamples=0)
    assert plan.route(2) == ((0, 2),) and plan.frontier.error.iloc[-1] == 0


def test_maps_without_a_task_are_refused_with_the_remedy():
    batches = [(IMAGES, torch.zeros(5, 6, 7).long())]
    with pytest.raises(ic.InputError, match=r"output is \(5, 3, 6, 7\).*Pixels\(\) for a class a pixel"):
        ic.measure(segmenter(), batches)
    with pytest.raises(ic.InputError, match=r"needs targets of shape \(n, height, width\)"):
        ic.measure(segmenter(), [(IMAGES, torch.zeros(5).long())], task=Pixels())
    with pytest.raises(ic.InputError, match="label 3 is out of range: the model has 3 outputs"):
        ic.measure(segmenter(), [(IMAGES, torch.full((5, 6, 7), 3))], task=Pixels())
    with pytest.raises(ic.InputError, match=r"needs logits \(n, length, classes\)"):
        ic.measure(segmenter(), batches, task=Sequences())
    adapted = ic.adapt(segmenter(), IMAGES, task=Pixels())
    with pytest.raises(ic.InputError, match="adapted already, with a task of its own"):
        ic.measure(adapted, batches, task=Sequences())
    assert ic.measure(adapted, batches, task=Pixels(), resamples=0).options["examples"] == 210


class Tagger(nn.Module):
    """A class for each position; blocks mix positions that are not padding only."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layers = (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(3))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 5)

    def forward(self, input_ids, attention_mask):
        z = self.embedding(input_ids)
        for layer in self.layers:
            z = layer(z, src_key_padding_mask=attention_mask == 0)
        return self.head(z)


@pytest.mark.parametrize("as_tuple", [False, True])
def test_positions_are_rows_and_padding_is_none(as_tuple):
    torch.manual_seed(0)
    model = Tagger()
    ids, tags = torch.randint(20, (4, 6)), torch.randint(5, (4, 6))
    tags[:, 0] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones(4, 6).long()}
    padded = {
        "input_ids": torch.cat([ids, torch.zeros(4, 3).long()], 1),
        "attention_mask": torch.cat([torch.ones(4, 6), torch.zeros(4, 3)], 1).long(),
    }
    longer = torch.cat([tags, torch.zeros(4, 3).long()], 1)
    pairs = [(batch, tags), (padded, longer)]
    if as_tuple:
        pairs = [(tuple(inputs.values()), targets) for inputs, targets in pairs]
    alone, with_padding = (ic.measure(model, [pair], task=Sequences(), resamples=5) for pair in pairs)
    for report in (alone, with_padding):
        assert (report.options["examples"], report.options["resampled_units"]) == (20, 4)
    for metric in ("error", "cross_entropy", "distance"):
        assert dropouts(with_padding, metric) == pytest.approx(dropouts(alone, metric), rel=1e-4)
    with torch.no_grad():
        output, counted = model.eval()(**batch).argmax(2), tags != -100
    assert alone.intact_error == pytest.approx((output != tags)[counted].float().mean().item())


def test_padding_does_not_count_in_staged_models_either():
    class Stem(nn.Module):
        def forward(self, inputs):
            return inputs["states"]

    class Head(nn.Module):
        def forward(self, z):
            return z[:, 0]

    torch.manual_seed(0)
    model = ic.StagedModel(Stem(), [ic.Stage([Add(nn.Linear(4, 4)) for _ in range(3)])], [], Head())
    states, mask = torch.randn(3, 5, 4), torch.ones(3, 5).long()
    longer = {"states": torch.cat([states, torch.randn(3, 2, 4)], 1), "attention_mask": torch.ones(3, 7).long()}
    longer["attention_mask"][:, 5:] = 0
    options = {"against": "predictions", "resamples": 0}
    alone = ic.measure(model, [{"states": states, "attention_mask": mask}], **options)
    padded = ic.measure(model, [longer], **options)
    assert dropouts(padded, "distance") == pytest.approx(dropouts(alone, "distance"), rel=1e-5)
    cosines = [ic.similarity(model, [b]).value.tolist() for b in ({"states": states, "attention_mask": mask}, longer)]
    assert cosines[1] == pytest.approx(cosines[0], rel=1e-5)


def test_targets_tell_the_task_of_a_plain_model():
    assert type(task_of(torch.zeros(3).long())) is Classes and type(task_of(torch.zeros(3, 4))) is LabelSets
    assert type(task_of(None)) is Classes


def test_embeddings_are_right_where_their_own_is_nearest():
    class Output:
        last_hidden_state = torch.randn(4, 3, 6)

    intact = nn.functional.normalize(Output.last_hidden_state.mean(1), dim=1)
    outputs = Embeddings(intact).outputs(Output, {})
    assert outputs.argmax(1).tolist() == [0, 1, 2, 3]
    with pytest.raises(ic.InputError, match="has no tokens to average"):
        Embeddings(intact).outputs(torch.zeros(3), {})


def test_tokens_without_ids_are_refused():
    with pytest.raises(ic.InputError, match="this batch has no input_ids of shape"):
        Tokens().targets(None, torch.randn(2, 3))
