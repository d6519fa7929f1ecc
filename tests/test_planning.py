import itertools

import pandas as pd
import pytest
import torch
from torch import nn

import iterconv as ic
import zoo
from iterconv import paths
from planned import error, make_batches, make_net

pytestmark = pytest.mark.medium


def test_a_wide_beam_finds_what_trying_everything_finds():
    net = make_net()
    batches = make_batches(net)
    plan = ic.plan(net, batches, budget=0, beam=1000, resamples=20)
    assert plan.frontier.blocks.tolist() == [6, 5, 4, 3, 2, 1, 0]
    subsets = [path for length in range(4) for path in itertools.combinations(range(3), length)]
    everything = {route: error(net, batches[0::2], route) for route in itertools.product(subsets, subsets)}
    for row in plan.frontier.itertuples():
        best = min(e for route, e in everything.items() if sum(map(len, route)) == row.blocks)
        assert row.search_error == pytest.approx(best) == pytest.approx(everything[row.route])
        assert row.error == pytest.approx(error(net, batches[1::2], row.route)), "reported on what chose nothing"
        assert row.low <= row.error + 1e-9 and row.error <= row.high + 1e-9 and row.n == 60
    assert plan.options["routes_tried"] == len(everything)


def test_a_narrow_beam_is_greedy():
    net = make_net(stages=1, blocks=4)
    batches = make_batches(net)
    plan = ic.plan(net, batches, budget=2, beam=1, resamples=0)
    route = ((0, 1, 2, 3),)
    for row in plan.frontier.itertuples():
        assert row.route == route
        shorter = [(route[0][:i] + route[0][i + 1 :],) for i in range(len(route[0]))]
        route = min(shorter, key=lambda other: error(net, batches[0::2], other))
    assert plan.frontier.low.isna().all()


def test_saving_weights_keeps_the_number_of_blocks_and_suggests_groups():
    net = make_net()
    plan = ic.plan(net, make_batches(net), budget=2, mode="share", beam=3, resamples=0)
    assert (plan.frontier.blocks == 6).all() and plan.frontier.distinct.tolist() == [6, 5, 4, 3, 2]
    for row in plan.frontier.itertuples():
        assert all(len(path) == 3 and list(path) == sorted(path) for path in row.route), "neighbours only"
    groups = plan.coupling_groups(2)
    assert sorted(len(group) for group in groups) == [3, 3]
    ic.couple(torch.optim.SGD(net.parameters(), 0.1), groups, 0.5)
    assert plan.coupling_groups(6) == []


def test_a_plan_can_be_applied_saved_and_loaded(tmp_path):
    net = make_net()
    batches = make_batches(net)
    plan = ic.plan(net, batches, budget=3, resamples=0)
    small = plan.apply(4)
    assert sum(len(stage.blocks) for stage in small.stages) == 4
    with torch.no_grad():
        [(_, outcome)] = paths.evaluate(net, [plan.route(4)], batches[0][0])
        assert torch.equal(small(batches[0][0]), outcome.output)
    torch.save(small.state_dict(), tmp_path / "small.pt")
    again = plan.apply(4)
    nn.init.zeros_(again.stem.weight)
    again.load_state_dict(torch.load(tmp_path / "small.pt"))
    assert torch.equal(again(batches[0][0]), small(batches[0][0]))
    assert len(net.stages[0].blocks) == 3, "the model itself is left alone"
    plan.plot().savefig(tmp_path / "plan.png")
    with pytest.raises(ic.InputError, match="blocks=2 is not on the frontier; use 3 to 6"):
        plan.apply(2)


@pytest.mark.parametrize("mode", ["drop", "share"])
@pytest.mark.parametrize(
    "family, name",
    [("timm", "vit_tiny_patch16_224"), pytest.param("timm", "resnetv2_50", marks=pytest.mark.extended),
     pytest.param("torchvision", "resnet34", marks=pytest.mark.extended), ("language", "gpt2"),
     pytest.param("language", "llama", marks=pytest.mark.extended), ("language", "bert")],
)  # fmt: skip
def test_foreign_models_become_smaller_ordinary_ones(family, name, mode):
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "depth": 4} if "vit" in name else {}
    if family == "language":
        model, inputs = zoo.language_model(name)
        batches = [inputs, inputs]
    else:
        model, inputs = (zoo.timm_model if family == "timm" else zoo.torchvision_model)(name, **options)
        batches = [inputs, inputs + 0.1]
    model.eval()
    plan = ic.plan(model, batches, budget=0.7, mode=mode, beam=1, against="predictions", resamples=0)
    column = "blocks" if mode == "drop" else "distinct"
    fewest = int(plan.frontier[column].min())
    small = plan.apply(fewest)
    assert type(small) is type(model)
    if mode == "drop":
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    route = plan.route(fewest)
    number = next(i for i, path in enumerate(route) if path != paths.full_route(plan.model.stages)[i])
    if sum(path != full for path, full in zip(route, paths.full_route(plan.model.stages), strict=True)) == 1:
        expected = zoo.naive(model, plan.model.found[number].blocks, route[number], inputs)
        output = zoo.call(small, inputs)
        torch.testing.assert_close(getattr(output, "logits", output), expected)
    if name in ("gpt2", "llama"):
        generated = small.generate(inputs["input_ids"][:1], max_new_tokens=3, do_sample=False, use_cache=True)
        plain = small.generate(inputs["input_ids"][:1], max_new_tokens=3, do_sample=False, use_cache=False)
        assert torch.equal(generated, plain), "with and without a cache"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"mode": "memory"}, "mode='memory' is unknown; use 'drop', 'share' or 'repeat'"),
        ({"beam": 0}, "beam=0 keeps no route"),
        ({"budget": 7}, r"budget=7 is not in \[0, 6\]; use a number of blocks"),
        ({"budget": 1.5}, r"budget=1.5 is not in \[0, 1\]"),
        ({"budget": -1}, "budget=-1 is not in"),
        ({"budget": float("nan")}, "budget=nan is not in"),
        ({"budget": "half"}, "budget='half' is not a number"),
    ],
)
def test_bad_options(options, says):
    net = make_net()
    with pytest.raises(ic.InputError, match=says):
        ic.plan(net, make_batches(net), **options)


def test_what_cannot_be_planned_or_applied():
    net = make_net()
    with pytest.raises(ic.InputError, match=r"1 batch\(es\) can't be halved"):
        ic.plan(net, make_batches(net)[:1])
    constrained = ic.models.resnet(width=2, blocks=2, stages=1, in_channels=1, residual="proper")
    plan = ic.plan(constrained, make_batches(constrained, 8, 4), resamples=0)
    with pytest.raises(ic.InputError, match="constrained stages keep a state"):
        plan.apply(1)

    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))

        def forward(self, x):
            return self.b(self.a(x))

    model, x = Apart(), torch.randn(3, 4)
    apart = ic.adapt(model, x, stages=[[model.a, model.b]])
    plan = ic.plan(apart, [x] * 2, against="predictions", resamples=0)
    with pytest.raises(ic.InputError, match="are not in one nn.ModuleList or nn.Sequential"):
        plan.apply(1)


def test_a_plan_is_saved_and_loaded_for_its_model(tmp_path):
    torch.manual_seed(0)
    net = ic.models.resnet(width=3, blocks=3, stages=2, in_channels=1)
    batches = [(torch.randn(12, 1, 8, 8), torch.randint(10, (12,))) for _ in range(2)]
    plan = ic.plan(net, batches, budget=3, resamples=5)
    plan.save(tmp_path / "plan.json")
    again = ic.Plan.load(tmp_path / "plan.json", net)
    pd.testing.assert_frame_equal(again.frontier, plan.frontier)
    assert again.options == plan.options and again.route(4) == plan.route(4)
    with pytest.raises(ic.InputError, match=r"is a plan of \[3, 3\] blocks a stage, not of \[2\]"):
        ic.Plan.load(tmp_path / "plan.json", ic.models.resnet(width=3, blocks=2, stages=1, in_channels=1))
    with pytest.raises(ic.InputError, match="does not name a plan; let it end in .json"):
        plan.save(tmp_path / "plan.csv")
    with pytest.raises(ic.InputError, match="there is no plan"):
        ic.Plan.load(tmp_path / "other.json", net)
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"seed"', '"sead"'))
    with pytest.raises(ic.InputError, match="is damaged|is not a plan"):
        ic.Plan.load(tmp_path / "plan.json", net)


def test_options_by_their_old_names_still_work_with_a_warning():
    torch.manual_seed(0)
    net = ic.models.resnet(width=3, blocks=2, in_channels=1)
    batches = [(torch.randn(12, 1, 8, 8), torch.randint(10, (12,))) for _ in range(2)]
    with pytest.warns(DeprecationWarning) as seen:
        old = ic.measure(net, batches, reference="predictions", replicates=3, least_margin=0.1, further=["swap"])
    told = sorted(str(warning.message) for warning in seen)
    assert told == [
        "further= is now called families=",
        "least_margin= is now called min_margin=",
        "reference= is now called against=",
        "replicates= is now called resamples=",
    ]
    new = ic.measure(net, batches, against="predictions", resamples=3, min_margin=0.1, families=["swap"])
    pd.testing.assert_frame_equal(old.curves, new.curves)
    with pytest.warns(DeprecationWarning, match="saves= is now called mode="):
        shared = ic.plan(net, batches, saves="weights", resamples=0)
    assert shared.options["mode"] == "share"
