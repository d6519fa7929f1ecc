"""Foreign models are driven through their own modules; the oracle patches them and runs them whole, path by path."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn

import iterconv as ic
import zoo
from iterconv import paths
from iterconv.adapters import find_stages
from iterconv.tasks.tokens import next_token, next_tokens
from residual_blocks import Residual

pytestmark = pytest.mark.medium

TIMM = {
    "resnet26": [],  # two blocks a stage, of which the first changes the shape
    "resnet50": ["layer1.1:", "layer2.1:", "layer3.1:", "layer4.1:"],
    "resnetv2_50": ["stages.0.blocks.1:", "stages.1.blocks.1:", "stages.2.blocks.1:", "stages.3.blocks.1:"],
    "regnety_002": ["s3.1:", "s4.1:"],
    "convnext_atto": ["stages.0.blocks", "stages.1.blocks", "stages.2.blocks", "stages.3.blocks"],
    "vit_tiny_patch16_224": ["blocks"],
    "deit_tiny_patch16_224": ["blocks"],
    "mixer_s32_224": ["blocks"],
    "efficientnet_b0": ["blocks.3.1:", "blocks.4.1:", "blocks.5.1:"],
    "convmixer_768_32": ["blocks"],
}
SIZED = {
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8},
    "deit_tiny_patch16_224": {"img_size": 32, "patch_size": 8},
    "mixer_s32_224": {"img_size": 64},
}
UNFOUND = ("convmixer_768_32",)
"""Its blocks end in a convolution without a skip, so that they are no residual blocks and have to be named."""
FURTHER = ("resnet50", "resnetv2_50", "regnety_002", "deit_tiny_patch16_224", "mixer_s32_224", "efficientnet_b0")
"""More of the same; `test_foreign.py` compares others of these kinds with the oracle."""
TORCHVISION = {
    "resnet34": ["layer1", "layer2.1:", "layer3.1:", "layer4.1:"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "vit_b_32": ["encoder.layers"],
}
LANGUAGE = {
    "gpt2": ["transformer.h"],
    "llama": ["model.layers"],
    "bert": ["bert.encoder.layer"],
    "vit": ["vit.layers"],
}


def make(family, name):
    torch.manual_seed(0)
    if family == "timm":
        options = SIZED.get(name, {})
        model, inputs = zoo.timm_model(name, size=options.get("img_size", 32), **options)
    elif family == "torchvision":
        model, inputs = zoo.torchvision_model(name, **({"image_size": 64} if "vit" in name else {}), size=64)
    else:
        model, inputs = zoo.language_model(name)
    for label, parameter in model.named_parameters():  # scales and heads that start at 0 would hide every block
        if "bias" not in label and parameter.abs().max() < 1e-4:
            nn.init.normal_(parameter, std=0.5)
    return model.eval(), inputs


def routes_of(model):
    """In each stage: read out early, dropped, repeated, reversed."""
    full = paths.full_route(model.stages)
    changed = {}
    for number, path in enumerate(full):
        for other in (path[:1], path[1:], (*path, path[-1], path[-1]), path[::-1], ()):
            changed[(*full[:number], other, *full[number + 1 :])] = (number, other)
    return full, changed


@pytest.mark.parametrize(
    "family, name, stages",
    [
        *(
            pytest.param("timm", name, stages, marks=[pytest.mark.extended] * (name in FURTHER))
            for name, stages in TIMM.items()
            if stages
        ),
        *(pytest.param("torchvision", *each, marks=pytest.mark.extended) for each in TORCHVISION.items()),
        *(("language", name, stages) for name, stages in LANGUAGE.items()),
    ],
)
def test_every_family_equals_patching_the_model(family, name, stages):
    model, inputs = make(family, name)
    state = copy.deepcopy(model.state_dict())
    named = stages if name in UNFOUND else None
    adapted = ic.adapt(model, inputs, stages=named, output=lambda output, _: getattr(output, "logits", output))
    assert [stage.name for stage in adapted.found] == stages or name == "vit"
    assert all(stage.shared for stage in adapted.stages), "nothing gets past the blocks of these models"
    assert all((stage.found.identity_share > 0.4) == (name not in UNFOUND) for stage in adapted.stages)
    full, changed = routes_of(adapted)
    with torch.no_grad():
        outcomes = {route: outcome.output for route, outcome in paths.evaluate(adapted, [full, *changed], inputs)}
    for route, (stage, path) in changed.items():
        expected = zoo.naive(model, adapted.found[stage].blocks, path, inputs)
        torch.testing.assert_close(outcomes[route], expected, rtol=1e-5, atol=1e-6)
        if set(path) and len(path) > 1:
            assert not torch.equal(expected, outcomes[full]), "a perturbation that nothing shows tests nothing"
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    assert not any("forward" in module.__dict__ for module in model.modules())


class Loop(nn.Module):
    """Weight-tied: one block, executed again and again, either in a loop or as members of a sequence."""

    def __init__(self, times, unrolled):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.block = Residual(nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)))
        self.blocks = nn.Sequential(*[self.block] * times) if unrolled else None
        self.times = times

    def forward(self, x):
        z = self.stem(x)
        if self.blocks is not None:
            return self.head(self.blocks(z))
        for _ in range(self.times):
            z = self.block(z)
        return self.head(z)

    def iterated(self, x, times):
        """What a path of so many blocks computes."""
        self.times, self.blocks, before = times, None, (self.times, self.blocks)
        with torch.no_grad():
            result = self(x)
        self.times, self.blocks = before
        return result


@pytest.mark.parametrize("unrolled", [False, True])
def test_one_block_executed_again_and_again_is_a_stage(unrolled):
    torch.manual_seed(0)
    model, inputs = Loop(4, unrolled), torch.randn(5, 4)
    adapted = ic.adapt(model, inputs)
    assert [stage.name for stage in adapted.found] == ["block*4"]
    assert ic.adapt(model, inputs, stages=["block*4"]).found == adapted.found
    for path in ((), (0,), (1, 2), (0, 1, 2, 3), (3, 3, 0, 1, 2, 2)):
        with torch.no_grad():
            [(_, outcome)] = paths.evaluate(adapted, [(path,)], inputs)
        assert torch.equal(outcome.output, model.iterated(inputs, len(path)))
    with pytest.raises(ic.InputError, match="not executed|runs again"):
        ic.adapt(model, inputs, stages=["block*3" if unrolled else "block*5"])
    handle = ic.constrain(model, inputs, lipschitz=0.1)
    assert handle.constants[["stage", "block"]].to_numpy().tolist() == [[0, 0]] and handle.constants.c[0] > 1
    assert (ic.lipschitz.audit(model, inputs).measured <= 0.1 + 1e-6).all()


def test_albert_repeats_one_layer_and_can_be_made_shorter():
    model, batch = make("language", "albert")
    plan = ic.plan(model, [batch, batch], budget=2, beam=1, against="predictions", resamples=0)
    assert [stage.name for stage in plan.model.found] == ["albert.encoder.albert_layer_groups.0*4"]
    short = plan.apply(2)
    assert short.config.num_hidden_layers == 2 and model.config.num_hidden_layers == 4
    model.config.num_hidden_layers = 2
    assert torch.equal(short(**batch).logits, model(**batch).logits)


def test_trap_5_a_repeated_decoder_block_does_not_attend_to_its_own_cache():
    model, batch = make("language", "llama")
    assert model.config.use_cache
    adapted = ic.adapt(model, batch)
    with torch.no_grad():
        path = (0, 1, 2, 3, 3)
        [(_, outcome)] = paths.evaluate(adapted, [(path,)], batch)
    assert model.config.use_cache, "left as it was"
    expected = zoo.naive(model, adapted.found[0].blocks, path, batch)
    mask = (batch["attention_mask"][:, 1:] * batch["attention_mask"][:, :-1]).bool()
    torch.testing.assert_close(outcome.output, expected[:, :-1][mask])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_language_models_are_measured_by_their_next_token(name):
    model, batch = make("language", name)
    report = ic.measure(model, [batch, batch], extra_evaluations=2, resamples=20)
    assert report.options["examples"] == 2 * (8 + 5 + 8) and report.options["chance"] == pytest.approx(1 - 1 / 50)
    intact = report.curves.query("perturbation == 'extra evaluation' and position == 0").set_index("metric").value
    with torch.no_grad():
        logits = model(**batch).logits[:, :-1].flatten(0, 1)
    labels = batch["input_ids"][:, 1:].clone()
    labels[1, 5:] = -100
    expected = nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100)
    assert intact["cross_entropy"] == pytest.approx(expected.item(), rel=1e-5)
    kept = labels.flatten() >= 0
    assert intact["error"] == pytest.approx((logits.argmax(1) != labels.flatten())[kept].float().mean().item())
    assert next_tokens(batch).shape == next_token(model(**batch), batch).shape[:1] == (21,)


def test_without_labels_a_model_is_measured_against_its_own_predictions():
    model, inputs = make("timm", "vit_tiny_patch16_224")
    report = ic.measure(model, [inputs, inputs], against="predictions", resamples=0)
    intact = report.curves.query("metric == 'error' and perturbation == 'extra evaluation' and position == 0")
    assert (intact.value == 0).all() and report.options["examples"] == 6
    with pytest.raises(ic.InputError, match="against='predictions'"):
        ic.measure(model, [inputs])


def test_dictionaries_with_labels_and_tuples_of_arguments():
    model, batch = make("language", "bert")
    labels = torch.tensor([1, 2, 3])
    by_dictionary = ic.measure(model, [{**batch, "labels": labels}], resamples=0)
    by_pair = ic.measure(model, [(batch, labels)], resamples=0)
    pd.testing.assert_frame_equal(by_dictionary.curves, by_pair.curves)
    by_tuple = ic.measure(model, [((batch["input_ids"], batch["attention_mask"]), labels)], resamples=0)
    pd.testing.assert_frame_equal(by_tuple.curves, by_pair.curves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.extended)])
def test_other_precisions(dtype):
    model, inputs = make("timm", "convnext_atto")
    report = ic.measure(model.to(dtype), [(inputs.to(dtype), torch.tensor([0, 1, 2]))], resamples=0)
    assert report.curves.value.notna().all()


class Branch(nn.Module):
    def __init__(self, width=6, shift=0.0, in_place=False):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.shift, self.in_place = shift, in_place

    def forward(self, z, scale=1.0):
        change = scale * self.outer(torch.tanh(self.inner(z)))
        return z.add_(change) if self.in_place else z + change


class Own(nn.Module):
    """A user's model: dictionary outputs, a keyword for blocks, functions between modules, a skip around it all."""

    def __init__(self, between=0.0, in_place=False, reverse=False, skip=False):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 6), nn.Linear(6, 10)
        self.early = nn.ModuleList(Branch(in_place=in_place) for _ in range(3))
        self.middle = nn.Sequential(nn.LayerNorm(6), nn.ReLU(inplace=True))
        self.late = nn.ModuleList(Branch() for _ in range(2))
        self.between, self.reverse, self.skip = between, reverse, skip

    def forward(self, x):
        z = self.encode(x)
        for block in reversed(self.early) if self.reverse else self.early:
            z = block(z=z, scale=0.7)
            z = z + self.between if self.between else z
        z = torch.relu(self.middle(z)) * 2
        for block in self.late:
            z = block(z)
        return {"logits": self.decode(z), "other": z}


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_a_users_own_model():
    torch.manual_seed(0)
    model = Own()
    adapted = ic.adapt(model, X)
    assert [str(stage) for stage in adapted.found] == ["early: 3 x Branch", "late: 2 x Branch"]
    assert "early: 3 x Branch" in repr(adapted)
    torch.testing.assert_close(adapted(X), model(X)["logits"])
    report = ic.measure(model, [(X, torch.arange(5))], resamples=0)
    assert set(report.curves.stage) == {0, 1}

    def by_hand(early, late):
        z = model.encode(X)
        for index in early:
            z = model.early[index](z, 0.7)
        z = torch.relu(model.middle(z)) * 2
        for index in late:
            z = model.late[index](z)
        return model.decode(z)

    routes = [((0, 1, 2), (0, 1)), ((2, 0), (0, 1)), ((0, 1, 2), (1, 1, 1)), ((), ()), ((1,), (0,))]
    with torch.no_grad():
        for route, outcome in paths.evaluate(adapted, routes, X):
            torch.testing.assert_close(outcome.output, by_hand(*route))


def test_stages_can_be_named_in_several_ways():
    model = Own()
    for stages in (["early", "late"], ["early.0:3", "late:"], [list(model.early), model.late[0:2]]):
        assert [len(stage.blocks) for stage in ic.adapt(model, X, stages=stages).found] == [3, 2]
    (last,) = ic.adapt(model, X, stages=["early.1:"]).found
    assert last.blocks == (model.early[1], model.early[2])


@pytest.mark.parametrize(
    "model, options, says",
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), {}, "no run of two or more residual blocks of equal class"),
        (Own(), {"inputs": torch.randn(5, 3)}, r"Own rejects the batch \(RuntimeError: mat1 and mat2"),
        (Own(), {"stages": ["absent"]}, "no module 'absent'; at the top there are decode, early, encode"),
        (Own(), {"stages": ["early.2:"]}, r"'early.2:' has 1 block\(s\); a stage needs 2 or more"),
        (Own(), {"stages": []}, "names no stage"),
        (Own(), {"stages": [3]}, r"stages\[0\] is 3"),
        (Own(), {"stages": ["early.0:2", "early"]}, "in two stages"),
        (Own(), {"stages": ["early*1000000000"]}, r"has 10001 block\(s\); a stage needs 2 or more and takes 10000"),
        (Own(reverse=True), {"stages": ["early"]}, "not executed in its turn"),
        ("resnet50", {}, "str is not a torch.nn.Module"),
        (Own().to("meta"), {}, "Own has weights on the meta device"),
        (torch.jit.ScriptModule(), {}, "is a script, which can't be driven"),
        (Own(), {"inputs": X * float("nan")}, "Own makes NaN of this batch"),
    ],
)
def test_what_cannot_be_adapted_is_told(model, options, says):
    inputs = options.pop("inputs", X)
    with pytest.raises(ic.InputError, match=says) as refused:
        ic.adapt(model, inputs, **options)
    assert "\n" not in str(refused.value)
    if isinstance(model, nn.Module):
        assert not any("forward" in module.__dict__ for module in model.modules())


def test_blocks_whose_shape_changes_inside_a_named_run():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 6)), nn.Sequential(nn.Linear(6, 10)))
    with pytest.raises(ic.InputError, match=r"block 1 of stage '0:2' makes \(5, 6\) of \(5, 4\); name runs that keep"):
        ic.adapt(model, X, stages=["0:2"])


def test_finding_leaves_the_model_as_it_was():
    model = Own().train()
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    assert [stage.name for stage in find_stages(model, X)] == ["early", "late"]
    assert model.training and sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_trap_3_and_7_in_place_layers_and_batch_norm_leave_no_trace():
    model, inputs = make("torchvision", "resnet18")
    state = copy.deepcopy(model.state_dict())
    model.train()
    first = ic.measure(model, [(inputs, torch.tensor([1, 2, 3]))], resamples=0)
    again = ic.measure(model, [(inputs, torch.tensor([1, 2, 3]))], resamples=0)
    pd.testing.assert_frame_equal(first.curves, again.curves)
    assert model.training and all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class Tied(nn.Module):
    """Two stages, of which the second one executes two modules in turn."""

    def __init__(self):
        super().__init__()
        self.a = nn.ModuleList(Residual(nn.Linear(4, 4)) for _ in range(4))
        one, other = Residual(nn.Linear(4, 4)), Residual(nn.Linear(4, 4))
        self.b = nn.ModuleList([one, other, one, other])

    def forward(self, x):
        for block in (*self.a, *self.b):
            x = block(x)
        return x


def test_groups_of_an_adapted_model_are_checked():
    torch.manual_seed(0)
    model = Tied()
    adapted = ic.adapt(model, torch.randn(3, 4), stages=[list(model.a), list(model.b)])
    assert adapted.coupling_groups() == [list(model.a), list(model.b)[:2]], "a module that runs twice counts once"
    assert adapted.coupling_groups(2) == [list(model.a)[2:], list(model.b)[2:]]
    for first in (3, 7, -1):
        with pytest.raises(ic.InputError, match=f"first={first} leaves a stage with fewer than two blocks"):
            adapted.coupling_groups(first)


def test_foreign_blocks_can_be_coupled():
    model, inputs = make("language", "bert")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (group,) = ic.adapt(model, inputs).coupling_groups()
    for block in group[1:]:
        block.load_state_dict(group[0].state_dict())
    ic.couple(optimizer, [group], 1.0)
    model(**inputs).logits.square().sum().backward()
    optimizer.step()
    first = group[0].state_dict()
    assert all(torch.equal(first[key], block.state_dict()[key]) for block in group for key in first)


@pytest.mark.parametrize("name, normed_already", [("gpt2", True), ("llama", True), ("vit", False)])
def test_trap_4_a_stage_ends_before_the_final_norm_whatever_hidden_states_say(name, normed_already):
    torch.manual_seed(0)
    model, batch = zoo.language_model(name)
    model.eval()
    adapted = ic.adapt(model, batch)
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
        [(_, outcome)] = ic.paths.evaluate(adapted, [adapted_route(adapted)], batch)
    [end] = outcome.stage_outputs
    assert torch.equal(states[-1], end) is not normed_already
    final = {"gpt2": "transformer.ln_f", "llama": "model.norm"}.get(name)
    if final is not None:
        with torch.no_grad():
            assert torch.equal(model.get_submodule(final)(end), states[-1])


def adapted_route(adapted):
    return ic.paths.full_route(adapted.stages)


@pytest.mark.parametrize(
    "function, arguments",
    [
        (ic.adapt, (0, 0)),
        (ic.measure, (0, 0)),
        (ic.plan, (0, 0)),
        (ic.similarity, (0, 0)),
        (ic.couple, (0, 0, 0.5)),
        (ic.couple_axis, (0, 0, 0, 0.5)),
        (ic.constrain, (0, 0)),
        (ic.lipschitz.audit, (0, 0)),
    ],
)
def test_trap_6_unknown_options_do_not_vanish(function, arguments):
    with pytest.raises(TypeError, match="foo_bar_baz"):
        function(*arguments, foo_bar_baz=1)


def test_outputs_with_a_row_for_each_token():
    torch.manual_seed(0)
    model, batch = zoo.language_model("gpt2")
    flat = ic.adapt(model, batch, output=lambda output, inputs: output.logits.flatten(0, 1))
    report = ic.measure(flat, [batch], against="predictions", resamples=0)
    assert report.options["examples"] == batch["input_ids"].numel() and report.intact_error == 0
    halved = ic.adapt(model, batch, output=lambda output, inputs: output.logits[:2, 0])
    report = ic.measure(halved, [batch], against="predictions", resamples=0)
    assert "distance" not in set(report.curves.metric), "its two rows are no rows of the representation"
