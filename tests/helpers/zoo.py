"""Foreign models for tests: how to import their libraries, small ones of each family, and a naive evaluation."""

import pytest
import torch

import iterconv as ic
from iterconv.zoo.libraries import library


def torchvision():
    try:
        return library("torchvision")
    except ic.InputError as problem:
        pytest.skip(str(problem))


def timm_model(name, size=32, **options):
    torchvision()
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=10, **options), torch.randn(3, 3, size, size)


def torchvision_model(name, size=32, **options):
    return torchvision().models.get_model(name, num_classes=10, **options), torch.randn(3, 3, size, size)


TOKENS = {
    "vocab_size": 50,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
}


def language_model(name):
    """A model of random weights, and a batch whose second sequence is padded."""
    torchvision()
    transformers = pytest.importorskip("transformers")
    ids, mask = torch.randint(1, 50, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 6:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=4, n_head=4, **ends)
        return transformers.GPT2LMHeadModel(config), batch
    if name == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TOKENS, num_key_value_heads=2, **ends)), batch
    if name == "bert":
        config = transformers.BertConfig(**TOKENS, num_labels=10)
        return transformers.BertForSequenceClassification(config), batch
    if name == "albert":  # one layer that is executed four times
        config = transformers.AlbertConfig(**TOKENS, embedding_size=8, num_labels=10)
        return transformers.AlbertForSequenceClassification(config), batch
    assert name == "vit"
    sizes = {key: value for key, value in TOKENS.items() if key != "vocab_size"}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=10)
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(3, 3, 32, 32)}


def call(model, inputs):
    with torch.no_grad():
        return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def naive(model, blocks, path, inputs):
    """The model's output where the first block stands for a whole path and the others of the run do nothing.

    What a user would do with a hook and a patch for each block, one full forward pass for each path.
    """
    if hasattr(model, "config"):
        model.config.use_cache = False
    arguments, forwards = {}, [block.forward for block in blocks]
    handles = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: arguments.setdefault(index, (args, kwargs)), with_kwargs=True
        )
        for index, block in enumerate(blocks)
    ]
    call(model, inputs)
    for handle in handles:
        handle.remove()

    def whole_path(z, *_, **__):
        for index in path:
            args, kwargs = arguments[index]
            result = forwards[index](z, *args[1:], **kwargs)
            z = result[0] if isinstance(result, tuple) else result
        return z

    for index, block in enumerate(blocks):
        block.forward = whole_path if index == 0 else lambda z, *_, **__: z
    try:
        output = call(model, inputs)
    finally:
        for block in blocks:
            del block.forward
    return getattr(output, "logits", output)
