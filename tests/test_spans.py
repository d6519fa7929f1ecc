"""Span maps, plans over spans and repetitions, and the conventional numbers, each against a naive way."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import iterconv as ic
import zoo
from iterconv.planning.influence import by_angle, by_influence
from iterconv.planning.recipes import passthrough
from planned import error, make_batches, make_net

pytestmark = pytest.mark.medium


def run_blocks(net, images, path):
    """Run one stage's blocks by hand, from the stem to the head."""
    z = net.stem(images)
    for block in path:
        z = net.stages[0].blocks[block](z)
    return net.head(z)


def test_maps_are_those_of_blocks_run_by_hand(tmp_path):
    net = make_net(stages=1, blocks=4)
    batches = make_batches(net, n=60)
    found = ic.spans(net, batches, resamples=50)
    by_hand = {
        "drop": lambda s, e: [b for b in range(4) if not s <= b < e],
        "repeat": lambda s, e: [*range(e), *range(s, 4)],
        "swap": lambda s, e: [{s: e - 1, e - 1: s}.get(b, b) for b in range(4)],
    }
    assert len(found.table) == 10 + 10 + 6, "every span, and those of two blocks or more to swap"
    with torch.no_grad():
        for row in found.table.itertuples():
            path = by_hand[row.kind](row.start, row.end)
            wrong = [(run_blocks(net, x, path).argmax(1) != y).float() for x, y in batches]
            assert row.error == pytest.approx(torch.cat(wrong).mean().item()) and row.n == 60
            assert row.change == pytest.approx(row.error - found.intact_error)
            assert row.low <= row.change + 1e-9 and row.change <= row.high + 1e-9
    assert found.intact_error == pytest.approx(error(net, batches, (tuple(range(4)),)))
    found.plot().savefig(tmp_path / "spans.png")
    found.save(tmp_path / "spans.csv")
    assert pd.read_csv(tmp_path / "spans.csv").round(6).equals(found.table.round(6))


def test_maps_of_single_blocks_have_no_swap():
    net = make_net(stages=1, blocks=1)
    batches = make_batches(net, n=40)
    with pytest.raises(ic.InputError, match="no span to map"):
        ic.spans(net, batches, kinds=["swap"])
    with pytest.raises(ic.InputError, match="kinds='merge' is unknown"):
        ic.spans(net, batches, kinds=["merge"])


def all_routes(blocks, length, kind):
    """Every path that a single span makes of a stage."""
    full = tuple(range(blocks))
    spans = [(s, e) for s, e in combinations(range(blocks + 1), 2) if e - s == length]
    return [full[:s] + full[e:] if kind == "drop" else full[:e] + full[s:] for s, e in spans]


@pytest.mark.parametrize("mode", ["drop", "repeat"])
def test_a_plan_over_spans_tries_what_a_plan_block_by_block_does_not(mode):
    net = make_net(stages=1, blocks=4)
    batches = make_batches(net)
    budget = 1 if mode == "drop" else 7
    single = ic.plan(net, batches, mode=mode, budget=budget, beam=1, resamples=0).frontier
    spans = ic.plan(net, batches, mode=mode, budget=budget, beam=1, spans=True, resamples=0)
    for length in (1, 2, 3):
        tried = min(error(net, batches[0::2], (path,)) for path in all_routes(4, length, mode))
        row = spans.frontier.iloc[length]
        assert row.blocks == 4 - length if mode == "drop" else 4 + length
        assert row.search_error <= min(tried, single.search_error[length]) + 1e-9
        assert row.search_error == pytest.approx(error(net, batches[0::2], row.route))
        assert row.error == pytest.approx(error(net, batches[1::2], row.route))
    longest = spans.frontier.blocks.max()
    small = spans.apply(int(spans.frontier.blocks.iloc[-1]))
    assert sum(len(stage.blocks) for stage in small.stages) == (1 if mode == "drop" else longest)


def test_a_span_is_found_whose_parts_are_no_good():
    """Each block turns a plane by a right angle, so that four of six can go together, and fewer can not."""

    class Turn(nn.Module):
        def forward(self, z):
            return torch.stack([-z[:, 1], z[:, 0]], 1)

    net = ic.StagedModel(nn.Identity(), [ic.Stage([Turn() for _ in range(6)])], [], nn.Identity()).eval()
    inputs = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batches = [(x, net(x).argmax(1)) for x in inputs.split(20)]
    plan = ic.plan(net, batches, budget=2, beam=1, spans=True, resamples=0)
    last = plan.frontier.iloc[-1]
    assert (last.blocks, last.error, last.search_error) == (2, 0.0, 0.0), "four turns are none"


def test_spans_do_not_share_weights():
    net = make_net(stages=1)
    with pytest.raises(ic.InputError, match="spans=True does not go with mode='share'"):
        ic.plan(net, make_batches(net), mode="share", spans=True)
    with pytest.raises(ic.InputError, match=r"budget=2 .*\[3, 12\]"):
        ic.plan(net, make_batches(net), mode="repeat", budget=2)


def test_conventional_numbers_are_those_of_a_naive_loop():
    net = make_net(stages=2, blocks=3)
    batches = make_batches(net, n=30, size=10)
    table = ic.influence(net, batches)
    assert len(table) == 2 * 6 and (table.vectors == 30).all()
    images = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        states, z = [], net.stem(images)
        for number, stage in enumerate(net.stages):
            z = z if number == 0 else net.transitions[number - 1](z)
            own = [z]
            for block in stage.blocks:
                own.append(block(own[-1]))
            z = own[-1]
            states.append([state.flatten(1).numpy().astype(np.float64) for state in own])
    for row in table.itertuples():
        pairs = list(zip(states[row.stage][row.start], states[row.stage][row.end], strict=True))
        cosines = [a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) for a, b in pairs]
        assert row.influence == pytest.approx(1 - np.mean(cosines), abs=1e-9)
        assert row.angle == pytest.approx(np.mean([math.acos(min(c, 1)) / math.pi for c in cosines]), abs=1e-6)
        assert row.residual == pytest.approx(np.mean([math.dist(a, b) / math.sqrt(a @ a) for a, b in pairs]))


def test_tokens_count_one_by_one_and_padding_does_not():
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)]
    net = ic.StagedModel(nn.Identity(), [ic.Stage(layers)], [], nn.Linear(8, 3)).eval()
    tokens = torch.randn(4, 5, 8)
    table = ic.influence(net, [tokens])
    assert (table.vectors == 20).all()
    with torch.no_grad():
        cosines = nn.functional.cosine_similarity(tokens, layers[0](tokens), dim=2)
    assert table.influence[0] == pytest.approx(1 - cosines.mean().item(), abs=1e-5)


def test_vectors_without_a_direction_do_not_count():
    net = ic.StagedModel(nn.Identity(), [ic.Stage([nn.Linear(2, 2)])], [], nn.Identity()).eval()
    table = ic.influence(net, [torch.tensor([[0.0, 0.0], [1.0, 2.0]])])
    assert table.vectors.tolist() == [1] and table.influence.notna().all()
    table = ic.influence(net, [torch.zeros(3, 2)])
    assert table.vectors.tolist() == [0] and table.influence.isna().all()


def test_others_choose_by_their_numbers_and_are_reported_on_the_same_half():
    net = make_net(stages=1, blocks=4)
    batches = make_batches(net)
    plan = ic.plan(net, batches, budget=1, beam=1, resamples=20)
    table = ic.influence(net, batches[0::2])
    single = table[table.end == table.start + 1].set_index("start").influence
    order = single.sort_values().index
    for row in plan.baselines.itertuples():
        gone = 4 - row.blocks
        if row.method == "Block Influence":
            expected = tuple(block for block in range(4) if block not in order[:gone])
        else:
            lengths = table.end - table.start
            best = table[lengths == gone].sort_values("angle").iloc[0]
            expected = tuple(block for block in range(4) if not best.start <= block < best.end)
        assert row.route == (expected,)
        assert row.error == pytest.approx(error(net, batches[1::2], row.route)) and row.low <= row.error <= row.high
    assert set(plan.baselines.method) == {"Block Influence", "angular distance"} and len(plan.baselines) == 6
    assert by_influence(table, ((0, 1, 2, 3),))[-1] == ((),) and len(by_angle(table, ((0, 1, 2, 3),))) == 4


def test_a_plan_keeps_its_baselines_on_disk(tmp_path):
    net = make_net(stages=1)
    plan = ic.plan(net, make_batches(net), budget=2, resamples=5)
    plan.save(tmp_path / "plan.json")
    again = ic.Plan.load(tmp_path / "plan.json", net)
    pd.testing.assert_frame_equal(again.baselines, plan.baselines)
    pd.testing.assert_frame_equal(again.frontier, plan.frontier)
    plan.plot().savefig(tmp_path / "plan.png")
    ic.plan(net, make_batches(net), mode="repeat", budget=5, resamples=5).plot().savefig(tmp_path / "repeat.png")


def layers_from(recipe):
    """Read a recipe as mergekit does: the layers of all slices, one after the other."""
    slices = yaml.safe_load(recipe)["slices"]
    return [layer for own in slices for layer in range(*own["sources"][0]["layer_range"])]


@pytest.mark.parametrize("mode", ["drop", "share", "repeat"])
def test_recipes_execute_the_layers_of_the_route(mode, tmp_path):
    model, inputs = zoo.language_model("gpt2")
    model.eval()
    budget = 1.5 if mode == "repeat" else 1
    plan = ic.plan(model, [inputs, inputs], mode=mode, budget=budget, beam=1, against="predictions", resamples=0)
    column = "distinct" if mode == "share" else "blocks"
    for blocks in plan.frontier[column]:
        [path] = plan.route(int(blocks))
        recipe = plan.recipe(int(blocks), "it's/gpt2")
        assert plan.layers(int(blocks)) == list(path) == layers_from(recipe)
        contents = yaml.safe_load(recipe)
        assert contents["merge_method"] == "passthrough"
        assert {own["sources"][0]["model"] for own in contents["slices"]} == {"it's/gpt2"}
        gone = sorted(set(plan.route(int(plan.frontier[column].iloc[0]))[0]) - set(path))
        pruned = mode == "drop" and gone
        assert (
            recipe.startswith(f"# llama-quantize --prune-layers {','.join(map(str, gone))}")
            if pruned
            else (not recipe.startswith("#"))
        )


def test_recipes_need_one_list_of_layers():
    net = make_net(stages=2)
    plan = ic.plan(net, make_batches(net), budget=0, beam=1, resamples=0)
    with pytest.raises(ic.InputError, match="in one list of layers; this model has them in stages.0.blocks and stag"):
        plan.recipe(3, "x")
    with pytest.raises(ic.InputError, match="a model without layers is no recipe"):
        passthrough("x", 3, [])
