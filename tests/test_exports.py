"""Smaller and recurrent language models where iterconv is not: opened by transformers alone, and made by mergekit."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

import iterconv as ic
import zoo

pytestmark = [pytest.mark.extended, pytest.mark.filterwarnings("ignore")]  # of the libraries

PROMPT = [[5, 6, 7, 8]]
ALONE = f"""
import json, sys
import torch
sys.modules["iterconv"] = None  # an import would fail
try:
    import torchvision
except RuntimeError:  # built for another torch
    [sys.modules.pop(name) for name in list(sys.modules) if name.startswith("torchvision")]
    missing = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        missing.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    model, prompt = AutoModelForCausalLM.from_pretrained(folder).eval(), torch.tensor({PROMPT})
    options = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
    for cache in (True, False):
        print(json.dumps(model.generate(prompt, use_cache=cache, **options)[0].tolist()))
"""


def language_model():
    torch.manual_seed(0)
    model, batch = zoo.language_model("gpt2")
    return model.eval(), batch


def next_tokens(model):
    """Eight tokens by repeated passes, without any cache or `generate`."""
    ids = torch.tensor(PROMPT)
    for _ in range(8):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        if ids[0, -1] == model.config.eos_token_id:
            break
    return ids[0].tolist()


def test_what_is_saved_needs_no_iterconv(tmp_path):
    model, batch = language_model()
    made = {"tied": ic.tie(model, [batch], 2, steps=(2, 2, 2)).model}
    for mode, blocks in (("drop", 2), ("repeat", 5), ("share", 2)):
        budget = blocks if mode != "share" else 1
        plan = ic.plan(model, [batch, batch], mode=mode, budget=budget, beam=1, against="predictions", resamples=0)
        made[mode] = plan.apply(blocks)
    folders = [str(tmp_path / name) for name in made]
    for folder, own in zip(folders, made.values(), strict=True):
        own.save_pretrained(folder)
    done = subprocess.run([sys.executable, "-c", ALONE, *folders], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for place, own in enumerate(made.values()):
        assert found[2 * place] == found[2 * place + 1] == next_tokens(own)


@pytest.mark.parametrize("mode, blocks", [("drop", 2), ("repeat", 6)])
def test_mergekit_makes_the_model_of_the_plan(tmp_path, mode, blocks):
    model, batch = language_model()  # this also mends the import of transformers
    merge = pytest.importorskip("mergekit.merge", reason="mergekit is not installed", exc_type=ImportError)
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions
    from transformers import AutoModelForCausalLM

    model.save_pretrained(tmp_path / "whole")
    plan = ic.plan(model, [batch, batch], mode=mode, budget=blocks, beam=1, against="predictions", resamples=0)
    recipe = MergeConfiguration.model_validate(yaml.safe_load(plan.recipe(blocks, str(tmp_path / "whole"))))
    merge.run_merge(recipe, str(tmp_path / "made"), MergeOptions(copy_tokenizer=False))
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    assert made.config.n_layer == blocks
    with torch.no_grad():
        assert torch.equal(made(**batch).logits, plan.apply(blocks)(**batch).logits)
