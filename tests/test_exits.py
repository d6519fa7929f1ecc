"""Exit rules: the frontier against a naive loop over examples, the model that exits by itself, and refusals."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.models.exiting import ReadOut, score

RULES = ("confidence", "agreement", "kl", "residual")


def make_net(stages=2, blocks=4):
    """A network whose read-outs differ, in double precision, so that batch sizes change no decision by rounding."""
    torch.manual_seed(0)
    net = ic.models.resnet(4, blocks, stages, in_channels=1, norm_scale=0.5)
    for _ in range(3):
        net(torch.randn(32, 1, 8, 8))
    nn.init.normal_(net.head.linear.weight, std=2.0)
    return net.double().eval()


def make_batches(n=60, size=10):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(n, 1, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)
    return list(zip(images.double().split(size), labels.split(size), strict=True))


def halves(batches):
    return [tuple(map(torch.cat, zip(*batches[first::2], strict=True))) for first in (0, 1)]


def read_naively(net, image):
    """Run one example through the whole model; returns its state and its logits after each block of the last stage."""
    with torch.no_grad():
        z = net.stem(image[None])
        for stage, transition in zip(net.stages[:-1], net.transitions, strict=True):
            z = transition(stage(z))
        states = [z]
        for block in net.stages[-1].blocks:
            states.append(block(states[-1]))
        return states, [net.head(z)[0] for z in states[1:]]


def exit_naively(net, read, rule, threshold):
    """Follow one example until it may stop; returns its logits and the number of executed blocks of all stages."""
    states, logits = read
    executed = sum(map(len, net.stages[:-1]))
    predicted, last_p = [], None
    for number, own in enumerate(logits):
        executed += 1
        p = own.softmax(0)
        predicted.append(int(p.argmax()))
        if rule == "confidence":
            stops = float(p.max()) > threshold
        elif rule == "agreement":
            last = predicted[-int(threshold) :]
            stops = len(last) == threshold and len(set(last)) == 1
        elif rule == "kl":
            stops = number > 0 and float((p * (p / last_p).log()).sum()) < threshold
        elif rule == "residual":
            before, z = states[number], states[number + 1]
            stops = number > 0 and float((z - before).norm() / before.norm()) < threshold
        else:
            stops = executed >= threshold
        last_p = p
        if stops or number + 1 == len(logits):
            return own, executed
    raise AssertionError


@pytest.fixture(scope="module")
def found():
    net, batches = make_net(), make_batches()
    return net, batches, ic.exits(net, batches, resamples=200)


@pytest.fixture(scope="module")
def read(found):
    """What each example of both halves is read out as, and its label."""
    net, batches, _ = found
    return [([read_naively(net, image) for image in images], labels) for images, labels in halves(batches)]


def test_every_row_equals_a_loop_over_single_examples(found, read):
    net, _, exits = found
    (searched, first_labels), (reported, labels) = read
    assert set(exits.frontier["rule"]) == {*RULES, "depth"} and len(exits.frontier) > 10
    for row in exits.frontier.itertuples():
        ends = [exit_naively(net, own, row.rule, row.threshold) for own in reported]
        assert row.blocks == pytest.approx(np.mean([blocks for _, blocks in ends]))
        wrong = [int(logits.argmax()) != int(label) for (logits, _), label in zip(ends, labels, strict=True)]
        assert row.error == pytest.approx(np.mean(wrong)) and row.n == 30
        logits = [exit_naively(net, own, row.rule, row.threshold)[0] for own in searched]
        wrong = [int(own.argmax()) != int(label) for own, label in zip(logits, first_labels, strict=True)]
        assert row.search_error == pytest.approx(np.mean(wrong))


def test_a_model_that_exits_by_itself_gives_exactly_the_read_outs_that_the_frontier_counted(found, read):
    net, batches, exits = found
    images, labels = halves(batches)[1]
    for rule in (*RULES, "depth"):
        rows = exits.frontier[exits.frontier["rule"] == rule]
        row = rows.iloc[len(rows) // 2]
        alone = exits.apply(rule, float(row.threshold))
        with torch.no_grad():
            outputs, blocks = alone.run(images)
            ends = [exit_naively(net, own, rule, row.threshold) for own in read[1][0]]
            assert torch.equal(outputs, alone(images))
        assert blocks.tolist() == [executed for _, executed in ends]
        assert torch.allclose(outputs, torch.stack([logits for logits, _ in ends]), atol=1e-12)
        assert float(blocks.double().mean()) == pytest.approx(row.blocks)
        assert float((outputs.argmax(1) != labels).double().mean()) == pytest.approx(row.error)


@pytest.mark.parametrize("rule", [*RULES, "depth"])
def test_a_rule_that_never_exits_is_the_whole_model(found, rule):
    net, batches, exits = found
    row = exits.frontier[exits.frontier["rule"] == rule].iloc[-1]
    images, labels = halves(batches)[1]
    with torch.no_grad():
        whole = net(images)
        assert torch.equal(exits.apply(rule, row.threshold)(images), whole)
    assert row.blocks == row.blocks_low == row.blocks_high == 8
    assert row.error == pytest.approx(float((whole.argmax(1) != labels).double().mean()))


def test_examples_that_are_done_leave_the_batch(found):
    net, batches, exits = found
    alone = exits.apply("confidence", float(exits.frontier.query("rule == 'confidence'").threshold.iloc[0]))
    images, seen = halves(batches)[1][0], []
    for block in alone.model.stages[-1].blocks:
        block.register_forward_hook(lambda module, args, result: seen.append(len(result)))
    with torch.no_grad():
        _, blocks = alone.run(images)
    assert seen == [int((blocks > 4 + before).sum()) for before in range(len(seen))]
    assert seen[0] == 30 and seen[-1] < 30
    assert net.stages[-1].blocks[0] is not alone.model.stages[-1].blocks[0], "the model itself is left as it was"


def test_thresholds_are_those_that_no_other_beats_on_the_first_half(found):
    exits = found[2]
    for rule in RULES:
        rows = exits.frontier[exits.frontier["rule"] == rule].iloc[:-1]
        assert (rows.search_error.diff().iloc[1:] < 0).all(), "more blocks are spent only for a lower error"
    assert exits.frontier[exits.frontier["rule"] == "depth"].threshold.tolist() == [5, 6, 7, 8]


def test_both_coordinates_see_the_same_resamples():
    """With an error that is a function of the blocks, the intervals are functions of each other."""
    scores = np.array([[1.0] * 20 + [0.0] * 30, [1.0] * 50])
    from iterconv.settling.exits import _report

    arrays = {"error": np.array([[1.0] * 50, [0.0] * 50]), "confidence": scores}
    row = _report("confidence", [0.5], arrays, arrays, 2, (500, 0.9, 0)).iloc[0]
    assert row.blocks == pytest.approx(2 - row.error) and row.error == 0.4
    assert row.blocks_low == pytest.approx(2 - row.high) and row.blocks_high == pytest.approx(2 - row.low)
    assert 0.2 < row.low < 0.4 < row.high < 0.6


def test_scores_of_known_read_outs():
    one, other = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    z, run = torch.tensor([[3.0, 4.0]]), torch.tensor([2.0])
    now, before = ReadOut(one, z), ReadOut(other, 2 * z)
    assert score("confidence", None, now, run, 1).item() == pytest.approx(0.75)
    assert score("kl", before, now, run, 1).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert score("residual", before, now, run, 1).item() == pytest.approx(0.5)
    assert score("agreement", now, now, run, 1).item() == 3 and score("agreement", before, now, run, 1).item() == 1
    assert score("kl", None, now, run, 1).item() == math.inf and score("kl", now, now, run, 1).item() == 0
    nan = ReadOut(one * math.nan, z)
    assert math.isnan(score("confidence", None, nan, run, 1).item())


def test_a_foreign_model_is_measured_as_the_same_staged_one(found):
    net, batches, exits = found

    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head, self.between = net.stem, net.head, net.transitions[0]
            self.first, self.second = nn.Sequential(*net.stages[0].blocks), nn.Sequential(*net.stages[1].blocks)

        def forward(self, x):
            return self.head(self.second(self.between(self.first(self.stem(x)))))

    other = ic.exits(Foreign().eval(), batches, resamples=200)
    pd.testing.assert_frame_equal(other.frontier, exits.frontier)
    with pytest.raises(ic.InputError, match=r"foreign model's own forward pass runs whole batches.*StagedModel"):
        other.apply("kl", 0.1)


def test_saved_and_loaded_exits_are_equal(found, tmp_path):
    net, _, exits = found
    exits.save(tmp_path / "exits.json")
    again = ic.Exits.load(tmp_path / "exits.json", net)
    pd.testing.assert_frame_equal(again.frontier, exits.frontier)
    assert again.options == exits.options and again.apply("kl", 0.1).threshold == 0.1
    with pytest.raises(ic.InputError, match="is about a model of 8 blocks, not of 4"):
        ic.Exits.load(tmp_path / "exits.json", make_net(1))
    (tmp_path / "exits.json").write_text('{"format": "other"}')
    with pytest.raises(ic.InputError, match="holds no exits"):
        ic.Exits.load(tmp_path / "exits.json", net)
    with pytest.raises(ic.InputError, match=r"let it end in .json"):
        exits.save(tmp_path / "exits.csv")


def test_without_resamples_there_are_no_intervals(found):
    net, batches, exits = found
    bare = ic.exits(net, iter(batches), rules=["residual"], resamples=0)
    assert bare.frontier["low"].isna().all() and bare.options["rules"] == ["residual", "depth"]
    own = exits.frontier[exits.frontier["rule"] == "residual"]
    assert bare.frontier.error.iloc[: len(own)].tolist() == own.error.tolist()


def test_in_training_mode_the_ordinary_pass_is_run(found):
    net, batches, exits = found
    alone, images = exits.apply("confidence", 0.11), batches[0][0]
    alone.model.eval()
    alone.training = True
    assert torch.equal(alone(images), net(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": "kl"}, "rules='kl' is no list of rules; use some of confidence, agreement, kl, residual"),
        ({"rules": ["entropy"]}, "rules='entropy' is unknown; use 'confidence', 'agreement', 'kl', 'residual'"),
        ({"rules": []}, "is no list of rules"),
        ({"against": "truth"}, "against='truth' is unknown"),
        ({"resamples": -1}, "resamples=-1 is too small"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ic.InputError) as told:
        ic.exits(make_net(1, 2), make_batches(20), **options)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_models_and_batches_that_do_not_fit_are_refused(found):
    net, batches, exits = found
    with pytest.raises(ic.InputError, match=r"1 batch\(es\) can't be halved, to choose thresholds"):
        ic.exits(net, batches[:1])
    several = [(images, torch.eye(10)[labels]) for images, labels in batches]
    with pytest.raises(ic.InputError, match="exit rules need one class an example, and the task is LabelSets"):
        ic.exits(net, several)
    with pytest.raises(ic.InputError, match="the last stage has a single block"):
        ic.exits(make_net(1, 1), batches)
    with pytest.raises(ic.InputError, match="rule='entropy' is unknown"):
        exits.apply("entropy", 0.1)
    with pytest.raises(ic.InputError, match="threshold='low' is not a number"):
        exits.apply("kl", "low")


@pytest.mark.medium
def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "exits.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert len(names["blocks"]) == 100 and (tmp_path / "exits.json").exists()
    assert names["tied"].stages[0].blocks[0].conv1.weight.grad.abs().sum() > 0
