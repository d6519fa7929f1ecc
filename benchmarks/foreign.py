"""Two ways to measure a foreign model: iterconv's, and what a user would otherwise do.

The user's way: for each perturbed path, patch the forwards of the stage's blocks and run the whole model. Both ways
evaluate the same paths on the same batches of random inputs and weights, images of 64 x 64 pixels among them, and come
to the same errors against the unperturbed model's predictions.
"""

from collections.abc import Callable
from typing import Any

import torch

import iterconv as ic
from iterconv.zoo.libraries import library

EXTRA = 16
"""Extra evaluations of the last block, as ``iterconv.measure`` has it by default."""


def by_hand(model: torch.nn.Module, stages: list[list[torch.nn.Module]], inputs: Any) -> list[float]:
    """Errors against the model's own predictions: every block dropped, early read-outs, extra evaluations."""

    def run() -> torch.Tensor:
        if isinstance(inputs, dict):
            return (
                model(**inputs, use_cache=False).logits[:, :-1].argmax(-1)
            )  # a repeated block would see its own cache
        return model(inputs).argmax(-1)

    intact, errors = run(), []
    for blocks in stages:
        count = len(blocks)
        full = list(range(count))
        paths = [full[:read] for read in range(1, count)] + [[*full[:out], *full[out + 1 :]] for out in full]
        paths += [full + [count - 1] * extra for extra in range(1, EXTRA + 1)]
        forwards = [block.forward for block in blocks]
        for path in paths:
            for index, block in enumerate(blocks):
                times = path.count(index)
                block.forward = repeated(forwards[index], times)  # type: ignore[method-assign]
            errors.append(float((run() != intact).float().mean()))
        for block in blocks:
            del block.forward
    return errors


def repeated(forward: Callable[..., Any], times: int) -> Callable[..., Any]:
    """A block's forward, evaluated several times or not at all."""

    def several(z: Any, *args: Any, **kwargs: Any) -> Any:
        for _ in range(times):
            z = forward(z, *args, **kwargs)
            z = z[0] if isinstance(z, tuple) else z
        return z

    return several


def ours(adapted: Any, inputs: Any) -> list[float]:
    """The same errors, in the same order."""
    report = ic.measure(adapted, [(inputs, None)], against="predictions", extra_evaluations=EXTRA, resamples=0)
    errors = report.curves[report.curves.metric == "error"]
    whole = errors.position * 0
    for stage, own in errors.groupby("stage"):
        whole[errors.stage == stage] = own[own.perturbation == "early read-out"].position.max()
    early = (errors.perturbation == "early read-out") & (errors.position < whole)
    extra = (errors.perturbation == "extra evaluation") & (errors.position > 0)
    left = errors[early | extra | (errors.perturbation == "drop-out")]
    return list(left.value)


def models() -> dict[str, Callable[[], tuple[torch.nn.Module, Any]]]:
    """A ResNet, a vision transformer, a language model: makers of modules and inputs by name."""
    timm, transformers = library("timm"), library("transformers")

    def gpt2() -> tuple[torch.nn.Module, Any]:
        sizes = {"n_embd": 192, "n_layer": 12, "n_head": 3, "vocab_size": 1000}
        config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        return transformers.GPT2LMHeadModel(config), {"input_ids": torch.randint(1000, (8, 32))}

    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return {
        "resnet50": lambda: (timm.create_model("resnet50"), images),
        "vit_tiny": lambda: (timm.create_model("vit_tiny_patch16_224", img_size=64), images),
        "gpt2": gpt2,
    }


def encoder_decoder() -> tuple[torch.nn.Module, Any]:
    """A T5 of 6 + 6 layers, whose stages can't be shared."""
    transformers = library("transformers")
    sizes = {"d_model": 192, "d_kv": 64, "d_ff": 768, "num_layers": 6, "num_heads": 3, "vocab_size": 1000}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    return model, {name: torch.randint(1000, (8, 32)) for name in ("input_ids", "decoder_input_ids")}
