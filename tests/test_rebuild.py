"""Smaller models of transformers: their configuration follows the route, they save, load and generate."""

import pytest
import torch

import iterconv as ic
import zoo
from foreign_models import MODELS
from iterconv.adapters.rebuild import rebuild
from iterconv.paths.evaluate import evaluate, full_route

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore")]  # of the libraries
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gemma2(window=16):
    zoo.torchvision()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        **zoo.TOKENS, num_key_value_heads=2, head_dim=8, sliding_window=window, max_position_embeddings=128, **ENDS
    )
    assert len(set(config.layer_types)) == 2, "layers of two kinds"
    model = transformers.Gemma2ForCausalLM(config).eval()
    return model, {"input_ids": torch.randint(1, 50, (2, 10))}


@pytest.mark.parametrize("path", [(0, 2, 3), (1, 2), (3,), (0, 0, 2, 3)])
def test_layers_of_several_kinds_keep_their_kinds(path, tmp_path):
    model, batch = gemma2()
    kinds = list(model.config.layer_types)
    adapted = ic.adapt(model, batch)
    small = rebuild(adapted, (path,))
    assert small.config.layer_types == [kinds[block] for block in path]
    assert small.config.num_hidden_layers == len(path) and model.config.layer_types == kinds
    long = {"input_ids": torch.randint(1, 50, (2, 60), generator=torch.Generator().manual_seed(1))}
    with torch.no_grad():
        [(_, outcome)] = evaluate(adapted, [(path,)], long)
        found = small(**long, use_cache=False).logits[:, :-1].flatten(0, 1)
    assert torch.equal(found, outcome.output), "beyond the window too"
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**long).logits, small(**long).logits)
    generated = [
        again.generate(batch["input_ids"][:1], max_new_tokens=20, do_sample=False, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*generated)


@pytest.mark.parametrize("name", ["t5", "bart", "gemma3_text", "mamba", "recurrent_gemma", "lfm2", "mixtral", "gpt2"])
def test_every_kind_of_configuration_follows_or_is_refused(name, tmp_path):
    name = f"transformers/{name}"
    if name not in MODELS:
        pytest.skip(f"{name} is not in the catalogue")
    model, batch = MODELS[name]()
    adapted = ic.adapt(model, batch)
    full = full_route(adapted.stages)
    for number, path in enumerate(full):
        route = (*full[:number], path[1:], *full[number + 1 :])
        try:
            small = rebuild(adapted, route)
        except ic.InputError as problem:
            assert "\n" not in str(problem) and "iterconv.paths.evaluate" in str(problem)
            continue
        with ic.paths.untouched(adapted):
            [(_, outcome)] = evaluate(adapted, [route], batch)
        small.save_pretrained(tmp_path / str(number))
        again = type(small).from_pretrained(tmp_path / str(number)).eval()
        with torch.no_grad():
            again.config.use_cache = False
            assert torch.equal(adapted.output_of(again(**batch), batch), outcome.output)


def test_weights_of_models_whose_kinds_of_layers_are_fixed_are_shared_or_refused():
    model, batch = MODELS["transformers/mamba"]()
    plan = ic.plan(model, [batch, batch], mode="share", budget=2, beam=1, against="predictions", resamples=0)
    try:
        small = plan.apply(3)
    except ic.InputError as problem:
        assert "\n" not in str(problem)
    else:
        assert len({id(block) for block in small.backbone.layers}) <= 4


def test_a_part_of_a_container_is_refilled_and_numbered():
    model, batch = zoo.language_model("gpt2")
    adapted = ic.adapt(model.eval(), batch, stages=["transformer.h.1:3", "transformer.h.3:"][:1])
    small = rebuild(adapted, ((1,),))
    assert [block.attn.layer_idx for block in small.transformer.h] == [0, 1, 2] and small.config.n_layer == 3
    assert torch.equal(small.transformer.h[1].mlp.c_fc.weight, model.transformer.h[2].mlp.c_fc.weight)


def test_two_stages_in_one_container():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()) for _ in range(6))).eval()
    x = torch.randn(3, 4)
    adapted = ic.adapt(model, x, stages=["0:3", "3:"])
    small = rebuild(adapted, ((0, 2), (2, 0)))
    with torch.no_grad():
        expected = model[3](model[5](model[2](model[0](x))))
        assert torch.equal(small(x), expected)
