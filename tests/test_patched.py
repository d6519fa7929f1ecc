"""The oracle of foreign models against what is written down by hand for each kind of them."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import own_states
import zoo
from own_models import OWN
from patched import find_streams, leaves, patched, recorded, run

PATHS = [
    (0, 1, 2, 3),
    (1, 2, 3),
    (0, 2, 3),
    (0,),
    (),
    (3,),
    (0, 1, 2, 3, 3),
    (0, 0, 1, 2, 3),
    (1, 0, 2, 3),
    (3, 2, 1, 0),
]


def tensors(output):
    return [leaf for leaf in leaves(output).values() if isinstance(leaf, torch.Tensor)]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def by_path(name, path):
    model, inputs = OWN[name]()
    with torch.no_grad():
        return model, model.stem(inputs), patched(model, model.blocks, path, inputs)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("path", PATHS)
def test_ordinary_residual_networks(path):
    for name in ("plain", "in_place", "scripted", "compiled_and_run", "checkpointed", "dictionary_changed_in_place"):
        model, z, output = by_path(name, path)
        for index in path:
            z = model.blocks[index]({"z": z})["z"] if "dictionary" in name else model.blocks[index](z)
        assert torch.equal(output, model.head(z)), name


@pytest.mark.parametrize("path", PATHS)
def test_what_happens_around_blocks_stays_alive(path):
    """Where each element is executed shows in what the model reads between the blocks."""
    model, z, output = by_path("dense_head", path)
    states, place = [z], 0
    at = {place: [] for place in range(4)}
    for index in path:
        place = max(place, index)
        at[place].append(index)
    for elements in at.values():
        for index in elements:
            z = model.blocks[index](z)
        states.append(z)
    assert torch.equal(output, model.head(torch.stack(states).mean(0)))


def test_a_swap_executes_the_earlier_block_at_the_place_of_the_later_one_with_its_own_arguments():
    model, z, output = by_path("keyword_only", (1, 0, 2, 3))
    for index in (1, 0, 2, 3):
        z = model.blocks[index](z=z, scale=1 + index)
    assert torch.equal(output, model.head(z))
    model, z, output = by_path("something_between", (1, 0, 2, 3))  # the scale between 0 and 1 comes before both
    for index, scale in ((1, 1.0), (0, 1.25), (2, 1.5), (3, 1.75)):
        z = model.blocks[index](z * 1.0) * scale
    assert torch.equal(output, model.head(z))


def test_repetitions_and_swaps_of_blocks_that_get_the_stems_output_too():
    model, first, output = by_path("stem_again", (0, 0, 2, 1, 3))
    z = first
    for index in (0, 0, 2, 1, 3):
        z = model.blocks[index](z, first)
    assert torch.equal(output, model.head(z)), "the first block's second argument only happens to be its first"


def test_arguments_that_are_the_representation_again():
    model, inputs = OWN["query_key_value"]()
    for path in PATHS:
        z = model.stem(inputs)
        for index in path:
            z = model.blocks[index](z, z, z)
        assert torch.equal(patched(model, model.blocks, path, inputs), model.head(z))


def test_masks_before_the_representation():
    model, inputs = OWN["mask_first"]()
    z = model.stem(inputs[0])
    for index in (0, 3, 3):
        z = model.blocks[index](inputs[1], z)
    assert torch.equal(patched(model, model.blocks, (0, 3, 3), inputs), model.head(z))
    model, z, output = by_path("mask_of_the_same_shape", (2, 1))
    gate = torch.sigmoid(z)
    assert torch.equal(output, model.head(model.blocks[1](gate, model.blocks[2](gate, z))))


def test_towers_and_stages_beside_the_stage_run_as_ever():
    model, inputs = OWN["two_towers"]()
    for path in ((), (1, 2), (0, 2), (2, 1, 0), (0, 1, 2, 2)):
        z = model.a.stem(inputs)
        for index in path:
            z = model.a.blocks[index](z)
        expected = 3 * model.a.head(z) + model.b(inputs)
        assert torch.equal(patched(model, list(model.a.blocks), path, inputs), expected)
    model, z, output = by_path("exchanging_branches", (0, 2, 3))
    other = z
    for number in range(4):
        z = model.blocks[number](z) if number != 1 else z
        other = model.others[number](other)
        if number % 2:
            z, other = z + other / 2, other + z / 2
    assert torch.equal(output, model.head(z))


def test_reversible_blocks_hand_on_two_streams():
    torch.manual_seed(0)  # the snippet of the findings, and what it gives by hand
    model, x = own_states.Reversible(), torch.randn(64, 16)
    torch.manual_seed(0)
    model.blocks = nn.ModuleList(own_states.Reversible.block() for _ in range(4))
    model.head, model.stem, x = nn.Linear(16, 7), nn.Identity(), torch.randn(64, 16)
    predicted = model(x).argmax(1)
    drops = [tuple(index for index in range(4) if index != dropped) for dropped in range(4)]
    errors = [(patched(model, model.blocks, path, x).argmax(1) != predicted).float().mean().item() for path in drops]
    assert errors == pytest.approx([0.28, 0.39, 0.28, 0.23], abs=0.005)
    for path in (*PATHS, *drops):
        a = b = x
        for index in path:
            a, b = model.blocks[index](a, b)
        assert torch.equal(patched(model, model.blocks, path, x), model.head(b))


@pytest.mark.parametrize("name", ["momentum", "states_Pair", "states_Record", "hyper_connections", "dictionary_states"])
def test_states_of_several_tensors(name):
    model, inputs = OWN[name]()
    blocks = list(model.blocks)
    for path in ((0, 1, 2, 3), (3, 2, 0, 0), (1, 2)):
        model.blocks = nn.ModuleList(blocks)
        output = patched(model, blocks, path, inputs)
        model.blocks = nn.ModuleList(blocks[index] for index in path)
        if name != "dictionary_states":
            assert torch.equal(output, model(inputs))
            continue
        z = model.stem(inputs)  # the step goes on where a block is dropped, and each block keeps its own
        for index in path:
            z = blocks[index]({"step": index, "z": z})["z"]
        assert torch.equal(output, model.head(z))


@pytest.mark.parametrize("name", ["wave_net", "wave_net_skip_first"])
def test_a_dropped_blocks_other_output_is_kept(name):
    """What WaveNet's head sums is computed from what the dropped block gets; a repetition gives the last one."""
    model, z, output = by_path(name, (0, 2, 2, 3))
    first = name == "wave_net_skip_first"
    skips = 0
    for elements in ((0,), (), (2, 2), (3,)):
        number = elements[0] if elements else 1
        before = z
        for index in elements or (number,):
            result = model.blocks[index](z)
            z, skip = result[::-1] if first else result
        z = z if elements else before
        skips = skips + skip
    assert torch.equal(output, model.head(skips + z if first else skips))


def test_a_bias_that_the_first_block_makes_is_there_without_it():
    model, z, output = by_path("shared_bias", (1, 3))
    bias = model.blocks[0](z)[1]
    for index in (1, 3):
        z, bias = model.blocks[index](z, bias=bias)
    assert torch.equal(output, model.head(z))
    model, z, (output, total) = by_path("auxiliary_loss", (0, 2, 3))
    losses = 0
    for index in range(4):
        after, loss = model.blocks[index](z)
        losses, z = losses + loss, z if index == 1 else after
    assert torch.equal(output, model.head(z)) and torch.equal(total, losses)


def test_depth_that_depends_on_the_data_depends_on_the_path_too():
    model, inputs = OWN["adaptive_depth"]()
    [block] = model.blocks
    number = len(recorded(model, [block], inputs))

    def by_hand(times_at):
        z, total, steps = model.stem(inputs), 0, 0
        while steps < 12 and (total < 1.5 if steps else torch.tensor(True)).any():
            for _ in range(times_at(steps)):
                z = block(z)
            total, steps = total + torch.sigmoid(model.halt(z)), steps + 1
        return model.head(z + steps), steps

    steps = set()
    for path, times_at in {
        tuple(range(number)): lambda step: 1,
        tuple(range(1, number)): lambda step: step > 0,
        (*range(number), number - 1, number - 1): lambda step: 3 if step == number - 1 else 1,
        (0,): lambda step: step == 0,
        (): lambda step: 0,
    }.items():
        expected, taken = by_hand(times_at)
        steps.add(taken)
        assert torch.equal(patched(model, [block] * number, path, inputs), expected)
    assert len(steps) > 1 and number in steps, "nothing depends on the data"


def test_loops_over_several_blocks():
    model, inputs = OWN["abc_loop"]()
    z = model.stem(inputs)
    for index in (0, 1, 2, 1, 2, 0, 1):
        z = model.blocks[index](z)
    path = (0, 1, 2, 4, 5, 6, 7)
    assert torch.equal(patched(model, list(model.blocks) * 3, path, inputs), model.head(z))
    with pytest.raises(AssertionError, match="in their turn"):
        patched(model, list(model.blocks)[::-1], path, inputs)


def test_handing_on_in_place_and_not():
    """An in-place block that does nothing returns the very tensor; another returns one like it."""
    model, z, output = by_path("in_place_with_skip", (0, 1, 3))
    for index in (0, 1, 3):
        z = model.blocks[index](z)
    assert torch.equal(output, model.head(z + z))
    model, z, output = by_path("in_place_between", (0, 1, 3))
    states = []
    for block in (model.blocks[0], model.blocks[1], None, model.blocks[3]):
        states.append(z)
        z = block(z) + 0.1 if block else z + 0.1
    assert torch.equal(output, model.head(z + states[2]))


def test_hooks_fire_once_for_each_application():
    model, inputs = OWN["plain"]()
    fired = []
    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda module, args, index=index: fired.append(index))
        block.a.register_forward_hook(lambda module, args, output, index=index: fired.append(f"{index}.a"))
    calls = recorded(model, model.blocks, inputs)
    assert fired == [0, "0.a", 1, "1.a", 2, "2.a", 3, "3.a"] and len(calls) == 4
    fired.clear()
    patched(model, model.blocks, (2, 0, 0, 3), inputs)
    assert fired[8:] == [2, "2.a", 0, "0.a", 0, "0.a", 3, "3.a"]
    model, z, output = by_path("hook_changes_output", (1, 1, 2))
    z = model.blocks[1].forward(model.blocks[1].forward(z) * 1.5) * 1.5
    assert torch.equal(output, model.head(model.blocks[2].forward(z - 0.5)))


def test_noise_and_memory_begin_anew_in_every_pass():
    for name in ("noise_torch", "noise_numpy", "noise_random", "random_start", "counter", "keeps_its_state"):
        model, inputs = OWN[name]()
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        outputs = [patched(model, model.blocks, path, inputs) for path in ((1, 2), (0, 1, 2, 3), (1, 2))]
        assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], run(model, [], None, inputs)), name
        model.blocks = model.blocks[1:3]
        assert torch.equal(outputs[0], model(inputs)), name


def test_nothing_is_left_behind():
    model, inputs = OWN["counter"]()
    model.register_buffer("seen", torch.zeros(3))
    model.head.register_forward_hook(lambda module, args, output: output + model.seen.add_(1).mean())
    before, attributes, call = (
        copy.deepcopy(model.state_dict()),
        copy.deepcopy(vars(model.blocks[0])),
        nn.Module.__call__,
    )
    states = random.getstate(), torch.get_rng_state()
    kept = inputs.clone()
    patched(model, model.blocks, (3, 0, 0), inputs)
    assert nn.Module.__call__ is call and torch.equal(inputs, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.blocks[0].calls, model.blocks[0].history) == (0, []) and set(vars(model.blocks[0])) == set(attributes)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    model.blocks[2].a = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="mat1"):
        patched(model, model.blocks, (3, 0, 0), inputs)
    assert nn.Module.__call__ is call and model.blocks[0].calls == 0


def stage_of(model):
    model = getattr(model, "_orig_mod", model)
    parts = {"blocks": model, "up": model, "layers": model}
    for part in (getattr(model, "a", None), getattr(model, "encoder", None)):
        parts |= {
            name: part for name in ("blocks", "layers") if part is not None and name not in vars(model)["_modules"]
        }
    return next(list(getattr(part, name)) for name, part in parts.items() if hasattr(part, name))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", OWN)
def test_the_whole_path_is_the_models_own_pass(name):
    model, inputs = OWN[name]()
    plain = run(model, [], None, inputs)
    assert all(tensor.isfinite().all() for tensor in tensors(plain))
    blocks = stage_of(model)
    blocks = [block for block, _, _ in recorded(model, blocks, inputs)][: 3 if name == "siamese" else None]
    assert len(blocks) > 1
    assert equal(plain, patched(model, blocks, tuple(range(len(blocks))), inputs))
    for path in ((), (0,), tuple(range(1, len(blocks)))):
        assert not equal(plain, patched(model, blocks, path, inputs)), path


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "albert", "vit"])
@pytest.mark.medium
def test_language_models_equal_the_naive_evaluation(name):
    """Which lets the first block stand for the whole path, and is right where only one tensor is handed on."""
    torch.manual_seed(0)
    model, batch = zoo.language_model(name)
    model.eval()
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    if name == "albert":
        blocks = [layers[0].albert_layers[0]] * 4
    else:
        blocks = list(layers)
    cached = model.config.use_cache if hasattr(model.config, "use_cache") else None
    outputs = {path: patched(model, blocks, path, batch) for path in PATHS}
    assert cached is None or model.config.use_cache is cached
    for path, output in outputs.items() if name != "albert" else ():
        torch.testing.assert_close(output.logits, zoo.naive(model, blocks, path, batch))
    for times in (1, 2, 3, 4) if name == "albert" else ():
        model.config.num_hidden_layers = times
        assert torch.equal(patched(model, blocks[:times], tuple(range(times)), batch).logits, model(**batch).logits)
        assert torch.equal(outputs[(0, 1, 2, 3)].logits, model(**batch).logits) is (times == 4)


def test_streams_are_what_is_handed_on():
    found = {
        "plain": [((), (0, 0))],
        "reversible": [((0,), (0, 0)), ((1,), (0, 1))],
        "wave_net": [((0,), (0, 0))],
        "wave_net_skip_first": [((1,), (0, 0))],
        "mask_first": [((), (0, 1))],
        "mask_of_the_same_shape": [((), (0, 1))],
        "query_key_value": [((), (0, 0)), ((), (0, 1)), ((), (0, 2))],
        "something_between": [((), (0, 0))],
        "dictionary_states": [(("z",), (0, 0, "z"))],
        "shared_bias": [((0,), (0, 0)), ((1,), (1, "bias"))],
    }
    for name, streams in found.items():
        model, inputs = OWN[name]()
        assert find_streams(recorded(model, model.blocks, inputs), len(model.blocks)) == streams
