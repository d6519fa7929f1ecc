"""The catalogue of foreign models is whole, and the oracle is right on them where a drop-out can be made by hand."""

import pytest
import torch
from torch import nn

import zoo
from foreign_models import MODELS, TIMM, TIMM_EXCLUDED, TORCHVISION_EXCLUDED
from patched import find_streams, leaves, patched, recorded, run

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore")]  # of the libraries, about themselves


def tensors(output):
    return [leaf for leaf in leaves(output).values() if isinstance(leaf, torch.Tensor)]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_every_module_of_timm_is_in_the_catalogue_or_excluded_with_a_reason():
    zoo.torchvision()
    timm = pytest.importorskip("timm")
    names = {*TIMM, *TIMM_EXCLUDED}
    missing = [module for module in timm.list_modules() if not names & set(timm.list_models(module=module))]
    assert not missing
    assert all(len(reason) > 20 for reason in (*TIMM_EXCLUDED.values(), *TORCHVISION_EXCLUDED.values()))
    assert not set(TIMM) & set(TIMM_EXCLUDED) and len(TIMM) == len(set(TIMM))
    assert sum(name.startswith("transformers/") for name in MODELS) > 300


@pytest.mark.parametrize("name", ["timm/test_byobnet", "torchvision/shufflenet_v2_x0_5", "transformers/t5", "own/act"])
def test_entries_make_the_same_every_time(name):
    name = "own/adaptive_depth" if name == "own/act" else name
    outputs = []
    for _ in range(2):
        model, inputs = MODELS[name]()
        assert not model.training
        outputs.append(run(model, [], None, inputs))
    assert equal(*outputs)


# Where a block has one argument and one result, to drop it is to put an identity in its place.
STAGES = {
    "torchvision/r3d_18": "layer1",
    "torchvision/lraspp_mobilenet_v3_large": "backbone.13:16",
    "timm/hrnet_w18_small": "stage3.0.branches.1",
    "timm/starnet_s050": "stages.2.1:",
    "timm/convnextv2_atto": "stages.2.blocks",
    "transformers/convnext": "convnext.encoder.stages.1.layers",
}


def blocks_of(model, name):
    path, _, bounds = name.rpartition(".")
    if ":" not in bounds:
        return list(model.get_submodule(name))
    first, last = (int(bound) if bound else None for bound in bounds.split(":"))
    modules = model.get_submodule(path)
    return list(modules.values() if isinstance(modules, nn.ModuleDict) else modules.children())[first:last]


@pytest.mark.parametrize("name", STAGES)
def test_a_drop_out_is_an_identity_in_the_blocks_place(name):
    model, inputs = MODELS[name]()
    blocks = blocks_of(model, STAGES[name])
    plain = run(model, [], None, inputs)
    assert equal(plain, patched(model, blocks, range(len(blocks)), inputs))
    dropped = patched(model, blocks, [0, *range(2, len(blocks))], inputs)
    assert not equal(plain, dropped)
    parent = next(module for module in model.modules() if blocks[1] in module.children())
    [key] = [key for key, child in parent.named_children() if child is blocks[1]]
    setattr(parent, key, nn.Identity())
    assert equal(run(model, [], None, inputs), dropped)


# Where the model goes through a list of blocks, to drop one is to take it out of the list.
LISTS = {
    "transformers/t5": "encoder.block",
    "transformers/bart": "model.encoder.layers",
    "transformers/whisper": "model.encoder.layers",
    "transformers/led": "led.encoder.layers",
    "transformers/clip": "vision_model.encoder.layers",
    "transformers/siglip": "vision_model.encoder.layers",
    "transformers/mamba": "backbone.layers",
    "transformers/rwkv": "rwkv.blocks",
    "transformers/gemma3_text": "model.layers",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_drop_out_is_a_shorter_list(name):
    model, inputs = MODELS[name]()
    path, _, key = LISTS[name].rpartition(".")
    parent = model.get_submodule(path)
    blocks = list(getattr(parent, key))
    plain = run(model, [], None, inputs)
    dropped = patched(model, blocks, (0, 1, 2), inputs)
    assert len(blocks) == 4 and equal(plain, patched(model, blocks, (0, 1, 2, 3), inputs)) and not equal(plain, dropped)
    setattr(parent, key, nn.ModuleList(blocks[:3]))
    assert equal(run(model, [], None, inputs), dropped)


def test_streams_of_foreign_blocks():
    """T5's position bias goes along, and so do both halves of a Reformer."""
    model, inputs = MODELS["transformers/t5"]()
    blocks = list(model.encoder.block)
    streams = find_streams(recorded(model, blocks, inputs), 4)
    assert [output for output, _ in streams] == [(0,), (1,)]
    without_the_first = patched(model, blocks, (1, 2, 3), inputs)
    assert all(tensor.isfinite().all() for tensor in tensors(without_the_first))
    model, inputs = MODELS["transformers/reformer"]()
    blocks = list(model.reformer.encoder.layers)
    assert len(find_streams(recorded(model, blocks, inputs), 4)) == 2
