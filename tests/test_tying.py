"""Recurrent surrogates: phases against all segmentations, the start, the fitting step by step, and the plain module."""

import copy
import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import iterconv as ic
import zoo
from iterconv.tying import find_phases


def table_of(maps):
    rows = [
        {"stage": stage, "kind": "updates", "block": a, "other": b, "value": cosines[a, b]}
        for stage, cosines in enumerate(maps)
        for a, b in itertools.product(range(len(cosines)), repeat=2)
    ]
    return pd.DataFrame(rows)


def spans(phases):
    return [(row.stage, row.start, row.end) for row in phases.itertuples()]


def segmentations(count):
    for inner in itertools.chain.from_iterable(itertools.combinations(range(1, count), n) for n in range(count)):
        ends = [0, *inner, count]
        yield list(itertools.pairwise(ends))


@pytest.mark.parametrize("groups", [3, 4, 6, 9, 10])
def test_phases_are_the_best_of_all_segmentations(groups):
    generator = np.random.default_rng(groups)
    units = [generator.normal(size=(count, 3)) for count in (5, 1, 4)]
    units = [stage / np.linalg.norm(stage, axis=1, keepdims=True) for stage in units]

    def cost(stage, start, end):
        inside = units[stage][start:end]
        return ((inside - inside.mean(0)) ** 2).sum() / 2

    everything = [
        sum(cost(stage, *span) for stage, split in enumerate(splits) for span in split)
        for splits in itertools.product(*(segmentations(len(stage)) for stage in units))
        if sum(map(len, splits)) == groups
    ]
    found = find_phases(table_of([stage @ stage.T for stage in units]), groups)
    assert len(found) == groups
    assert found.cost.sum() == pytest.approx(min(everything), abs=1e-12)
    assert [cost(*span) for span in spans(found)] == pytest.approx(list(found.cost), abs=1e-12)
    for stage, own in found.groupby("stage"):
        assert [*own.start, len(units[stage])] == [0, *own.end] and list(own.phase) == list(range(len(own)))


def test_runs_of_equal_updates_are_the_phases():
    directions = np.eye(3)[[0, 0, 0, 2, 2, 1]]
    found = find_phases(table_of([directions @ directions.T]), 3)
    assert spans(found) == [(0, 0, 3), (0, 3, 5), (0, 5, 6)] and (found.cost == 0).all()
    with pytest.raises(ic.InputError, match="groups=7 is not from 1 .one a stage. to 6"):
        find_phases(table_of([directions @ directions.T]), 7)
    with pytest.raises(ic.InputError, match="no rows of kind 'updates'"):
        find_phases(pd.DataFrame({"kind": []}), 1)


class Block(nn.Module):
    def __init__(self, width=6, hidden=8):
        super().__init__()
        self.norm, self.inner, self.outer = nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, z):
        return z + self.outer(torch.tanh(self.inner(self.norm(z))))


class Net(nn.Module):
    """A residual network of one stage, whose blocks have statistics of their own."""

    def __init__(self, blocks=4, classes=3):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(5, 6), nn.ModuleList(Block() for _ in range(blocks)), None
        self.head = nn.Linear(6, classes)
        for block in self.blocks:
            block.norm.running_mean.normal_()
            block.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        z = self.stem(x)
        for block in self.blocks:
            z = block(z)
        return self.head(z)


def net_and_batch(**options):
    torch.manual_seed(0)
    return Net(**options), (torch.randn(16, 5), torch.arange(16) % 3)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_start_is_the_mean_of_each_phase_and_the_original_stays():
    model, batch = net_and_batch()
    model.train()
    before, random = state(model), torch.get_rng_state()
    tied = ic.tie(model, [batch], 2, steps=(0, 0, 0))
    assert model.training and tied.model.training and type(tied.model) is Net
    assert torch.equal(torch.get_rng_state(), random)
    assert_equal_states(state(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in tied.model.parameters()}
    (_, first, middle), (_, _, last) = spans(tied.phases)
    assert (first, last) == (0, 4)
    for start, end in ((0, middle), (middle, 4)):
        for name in ("inner.weight", "outer.bias", "norm.running_var", "norm.weight"):
            mean = torch.stack([before[f"blocks.{i}.{name}"].double() for i in range(start, end)]).mean(0).float()
            for i in range(start, end):
                assert torch.equal(tied.model.state_dict()[f"blocks.{i}.{name}"], mean)
    assert sum(p.numel() for p in tied.model.blocks.parameters()) == 2 * sum(p.numel() for p in Block().parameters())
    assert list(tied.history.columns) == ["step", "part", "loss"] and tied.history.empty


def test_blocks_that_are_equal_or_all_kept_give_the_model_itself_to_the_bit():
    torch.manual_seed(0)
    net = ic.models.resnet(width=4, blocks=3, stages=2, in_channels=1, init="recurrent").eval()
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ic.tie(net, [images], 2, steps=(0, 0, 0)).model(images), net(images))
        model, (x, _) = net_and_batch()
        whole = ic.tie(model, [x], 4, steps=(0, 0, 0))
        assert torch.equal(whole.model.eval()(x), model.eval()(x))


@pytest.mark.parametrize("kind", ["foreign", "staged"])
def test_the_first_losses_equal_a_naive_evaluation(kind):
    if kind == "foreign":
        model, (x, _) = net_and_batch()
        stages = lambda net: [(net.stem, net.blocks)]  # noqa: E731
    else:
        torch.manual_seed(0)
        model, x = ic.models.resnet(width=3, blocks=3, stages=2, in_channels=1), torch.randn(4, 1, 8, 8)
        for block in [*model.stages[0].blocks, *model.stages[1].blocks]:
            block.bn1.running_mean.normal_()
        stages = lambda net: [(net.stem, net.stages[0].blocks), (net.transitions[0], net.stages[1].blocks)]  # noqa: E731
    model.eval()
    copies = {}
    tied = ic.tie(
        model, [x], 2, steps=(1, 1, 0), on_part=lambda part, made: copies.setdefault(part, copy.deepcopy(made))
    )
    with torch.no_grad():
        expected = {}
        for part, made in (("teacher forcing", copies["start"]), ("free-running", copies["teacher forcing"])):
            errors, z = [], x
            for (lead, blocks), (_, own) in zip(stages(model), stages(made), strict=True):
                z = mine = lead(z)
                for block, twin in zip(blocks, own, strict=True):
                    after, mine = block(z), twin(mine if part == "free-running" else z)
                    errors.append(((mine - after) ** 2).sum() / ((after - z) ** 2).sum())
                    z = after
            expected[part] = float(torch.stack(errors).mean())
    assert dict(zip(tied.history.part, tied.history.loss, strict=True)) == pytest.approx(expected, rel=1e-5)


def test_fitting_follows_the_intact_model_and_then_the_task():
    model, batch = net_and_batch()
    seen, calls = [], []
    tied = ic.tie(
        model,
        [batch],
        1,
        steps=(25, 15, 15),
        lr=0.02,
        progress=lambda *now: calls.append(now),
        on_part=lambda part, made: seen.append((part, float(F.cross_entropy(made(batch[0]), batch[1])))),
    )
    losses = {part: own.loss.to_numpy() for part, own in tied.history.groupby("part")}
    assert losses["teacher forcing"][-1] < 0.6 * losses["teacher forcing"][0]
    assert losses["free-running"][-1] < losses["free-running"][0]
    assert losses["task"][-1] < 0.9 * losses["task"][0]
    assert [part for part, _ in seen] == ["start", "teacher forcing", "free-running", "task"]
    assert losses["task"][0] == pytest.approx(seen[2][1], rel=1e-5)
    assert calls == [(step, 55) for step in range(1, 56)]
    assert list(tied.history.step) == [*range(25), *range(15), *range(15)]
    assert torch.equal(tied.model.blocks[0].norm.running_mean, tied.model.blocks[3].norm.running_mean)
    again = ic.tie(model, [batch], 1, steps=(25, 15, 15), lr=0.02)
    assert_equal_states(state(again.model), state(tied.model))


def test_the_dial_equals_steps_by_hand():
    model, (x, y) = net_and_batch(blocks=3)
    tied = ic.tie(model, [(x, y)], 1, how="dial", steps=(6,), lr=0.1, optimizer=torch.optim.SGD)
    mine = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(mine.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    for strength, following in itertools.pairwise([0, 1 / 3, 2 / 3, 1, 1, 1, 1]):
        optimizer.zero_grad()
        F.cross_entropy(mine(x), y).backward()
        nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
        parallel = list(zip(*(block.parameters() for block in mine.blocks), strict=True))
        for parts in parallel:
            mean = torch.stack([part.grad for part in parts]).mean(0)
            for part in parts:
                part.grad = (1 - strength) * part.grad + strength * mean
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for parts in [
                *parallel,
                [b.norm.running_mean for b in mine.blocks],
                [b.norm.running_var for b in mine.blocks],
            ]:
                mean = torch.stack([part.detach() for part in parts]).mean(0)
                for part in parts if strength < 1 else ():
                    part.copy_(mean + (part - mean) * (1 - following) / (1 - strength))
    for name, tensor in mine.state_dict().items():
        assert torch.allclose(tensor, tied.model.state_dict()[name], atol=1e-6), name
    assert tied.model.blocks[0].inner.weight is tied.model.blocks[2].inner.weight
    assert (tied.history.part == "task").all() and len(tied.history) == 6


def test_the_result_is_a_plain_module_whose_state_the_original_class_takes(tmp_path):
    model, batch = net_and_batch()
    tied = ic.tie(model, [batch], 2, steps=(2, 2, 2))
    tied.save(tmp_path / "small")
    again = Net()
    again.load_state_dict(torch.load(tmp_path / "small" / "weights.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(again.eval()(batch[0]), tied.model.eval()(batch[0]))
    assert not any(type(module).__module__.startswith("iterconv") for module in tied.model.modules())
    assert (tmp_path / "small" / "tied.json").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ic.InputError, match="is a file; name a folder"):
        tied.save(tmp_path / "file")


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "tying.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    exec(compile(example, "tying.md", "exec"), names)
    assert len(names["tied"].phases) == 2 and len(names["tied"].history) == 60
    assert (names["audit"].verdict == "shared").sum() >= 4 and (tmp_path / "tied" / "weights.pt").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"groups": 0}, "groups=0"),
        ({"groups": 5}, "groups=5 is not from 1 .one a stage. to 4 .all blocks."),
        ({"how": "glue"}, "how='glue' is unknown"),
        ({"steps": (1, 2)}, "one number for each part .teacher forcing, free-running, task."),
        ({"steps": (1, 2, -1)}, "steps=-1"),
        ({"how": "dial", "steps": (1, 2, 3)}, "one number for each part .task."),
        ({"lr": 0}, "lr=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_options_are_refused(options, message):
    model, batch = net_and_batch()
    with pytest.raises(ic.InputError, match=message):
        ic.tie(model, [batch], **{"groups": 2, **options})


def different(model):
    model.blocks[2] = Block(hidden=9)


def repeated(model):
    model.blocks[1] = model.blocks[2] = model.blocks[3] = model.blocks[0]


def frozen(model):
    model.blocks.requires_grad_(False)


@pytest.mark.parametrize(
    "change, message",
    [
        (different, "block 3 of stage blocks is built differently from block 1 .in inner.bias."),
        (repeated, "one block several times"),
        (frozen, "no parameter of the blocks can be trained"),
    ],
)
def test_models_that_cannot_be_tied_are_refused_before_the_work(change, message):
    model, batch = net_and_batch()
    change(model)
    seen = []
    with pytest.raises(ic.InputError, match=message) as problem:
        ic.tie(model, [batch], 2, on_part=lambda *part: seen.append(part))
    assert "\n" not in str(problem.value) and not seen


def test_constrained_stages_and_batches_without_targets_are_refused():
    net = ic.models.resnet(width=3, blocks=2, stages=1, in_channels=1, residual="proper")
    with pytest.raises(ic.InputError, match="is constrained"):
        ic.tie(net, [torch.randn(2, 1, 8, 8)], 1)
    model, (x, y) = net_and_batch()
    with pytest.raises(ic.InputError, match="pass .inputs, targets."):
        ic.tie(model, [x], 2)
    with pytest.raises(ic.InputError, match="label 3 is out of range"):
        ic.tie(model, [(x, y + 1)], 2)
    with pytest.raises(ic.InputError, match="use a smaller lr"):
        ic.tie(model, [(x, y)], 2, lr=1e30, steps=(5, 0, 0))


class Between(Net):
    """Between the blocks, something happens that is in none of them."""

    def forward(self, x):
        z = self.stem(x)
        for block in self.blocks:
            z = block(0.9 * z)
        return self.head(z)


def test_stages_that_cannot_be_run_block_by_block_are_refused():
    torch.manual_seed(0)
    model, x = Between().eval(), torch.randn(16, 5)
    adapted = ic.adapt(model, x, stages=["blocks"])
    with pytest.raises(ic.InputError, match="stage blocks can't be run block by block"):
        ic.tie(adapted, [(x, torch.arange(16) % 3)], 2)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore")  # of the library
@pytest.mark.parametrize("how", ["fit", "dial"])
def test_a_language_model_is_saved_opened_and_generates_with_and_without_cache(tmp_path, how):
    torch.manual_seed(0)
    model, batch = zoo.language_model("gpt2")
    model.eval()
    before = state(model)
    tied = ic.tie(model, [batch], 2, how=how, steps=(2, 2, 2) if how == "fit" else (4,))
    assert_equal_states(state(model), before)
    tied.save(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, tied.model(**batch).logits)
    prompt = batch["input_ids"][:1, :4]
    texts = [again.generate(prompt, max_new_tokens=8, do_sample=False, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*texts) and texts[0].shape[1] > 4
    for _, start, end in spans(tied.phases):
        for block in range(start, end):
            assert_equal_states(state(again.transformer.h[start]), state(again.transformer.h[block]))
    assert [block.attn.layer_idx for block in again.transformer.h] == [0, 1, 2, 3]
    assert again.lm_head.weight is again.transformer.wte.weight
    assert tied.model.lm_head.weight is tied.model.transformer.wte.weight
    assert not torch.equal(again.transformer.wte.weight, model.transformer.wte.weight), "all of it was fine-tuned"
