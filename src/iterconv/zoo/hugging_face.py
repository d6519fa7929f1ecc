"""``hf:PATH``: a model that transformers saved, with the texts or images that it takes."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iterconv.adapters.calls import call
from iterconv.data.hub import offline_if_unreachable
from iterconv.errors import InputError, line_of
from iterconv.paths.untouched import untouched
from iterconv.tasks.batches import inputs_of
from iterconv.tasks.embeddings import Embeddings, embedding
from iterconv.tasks.tokens import is_causal
from iterconv.zoo.common import Opened, choose_reference, load_images, to_device
from iterconv.zoo.inputs import texts, tokens
from iterconv.zoo.libraries import library
from iterconv.zoo.model_options import ModelOptions

LENGTH = 128
"""The most tokens of a text."""
NO_CODE = {"trust_remote_code": False}
"""The option that refuses code that comes with a model; without it, transformers asks the user whether to run it."""


def open_hugging_face(path: str, options: ModelOptions) -> Opened:
    """Load a folder or hub name, in the class from which it was saved.

    Args:
        path: The folder or hub name, as for ``from_pretrained``.
        options: The user's options.

    Returns:
        The model and its batches. Causal language models are measured by their next tokens, and classifiers by labels
        if there are any. A bare encoder is right about an example if, among all unperturbed embeddings, the one of the
        same example is nearest to the perturbed embedding.

    Raises:
        InputError: If the model or its data can't be loaded.
    """
    transformers = library("transformers")
    # Its warnings, such as of unused weights, are about training, and would hide our own lines.
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.weights not in ("pretrained", "none"):
        raise InputError(f"--weights {options.weights} is not for hf:{path}, which has its own; use pretrained or none")
    try:
        with contextlib.nullcontext() if Path(path).exists() else offline_if_unreachable():
            model = _load_model(transformers, path, options.weights == "none")
    except Exception as problem:  # noqa: BLE001 - whatever transformers raises, the remedy is the same
        raise InputError(f"can't load hf:{path} ({line_of(problem)}); pass what save_pretrained made") from None
    if getattr(model, "main_input_name", "") != "pixel_values":
        return _bring_texts(transformers, path, model, options)
    kind = type(model).__name__
    batches, classes = _load_test_images(transformers, path, model.config, options)
    if not kind.endswith("ForImageClassification"):
        return _compare_embeddings(model, list(batches), f"{kind} on {options.data}", options)
    return choose_reference(model, batches, classes, model.config.num_labels, options)


def _bring_texts(transformers: Any, path: str, model: Any, options: ModelOptions) -> Opened:
    """Bring a language model and the user's texts together."""
    config, kind = model.config, type(model).__name__
    if options.data is None:
        raise InputError(f"hf:{path} ({kind}) needs texts; pass --data FILE, as a .txt with one text a line")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **NO_CODE)
    except Exception as problem:  # noqa: BLE001
        raise InputError(f"hf:{path} has no tokenizer ({line_of(problem)}); save one beside the model") from None
    found, labels = texts(options.data, options.examples)
    classified = kind.endswith("ForSequenceClassification")
    if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < config.num_labels:
        labels = None  # they are of other classes, or -1 as in GLUE's test splits
    # Longer texts than positions would fail in the model.
    length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
    batches = tokens(tokenizer, found, labels if classified else None, options.batch_size, length)
    note = f"{kind} on {len(found)} texts of {options.data}"
    if is_causal(model):
        return Opened(model, batches, "labels", f"{note}, next-token error")
    if classified:
        return Opened(model, batches, "predictions" if labels is None else "labels", note)
    return _compare_embeddings(model, batches, note, options)


def _load_model(transformers: Any, path: str, random: bool) -> Any:
    config = transformers.AutoConfig.from_pretrained(path, **NO_CODE)
    # The class that was saved has the right head; AutoModel would load the body alone.
    kind = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModel)
    if not random:
        return kind.from_pretrained(path, **NO_CODE)
    return kind(config) if kind is not transformers.AutoModel else kind.from_config(config, **NO_CODE)


def _load_test_images(transformers: Any, path: str, config: Any, options: ModelOptions) -> Any:
    side: Any = getattr(config, "image_size", 224)
    mean: Any = (0.5,) * 3
    std: Any = mean
    if (Path(path) / "preprocessor_config.json").exists() or not Path(path).exists():
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(path, **NO_CODE)
        except Exception as problem:  # noqa: BLE001
            raise InputError(f"hf:{path} has no image processor that can be read ({line_of(problem)})") from None
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        found = dict(processor.size)
        side = found.get("shortest_edge") or (found["height"], found["width"])
    size = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
    channels = getattr(config, "num_channels", 3)
    return load_images(options, size, channels, mean[:channels], std[:channels], keyword="pixel_values")


def _compare_embeddings(model: nn.Module, batches: list[Any], note: str, options: ModelOptions) -> Opened:
    """Prepare an encoder without labels: each example is a class, with its unperturbed embedding as prototype."""
    model, numbered, parts, count = to_device(model, options), [], [], 0
    with untouched(model):
        for batch in batches:
            inputs = inputs_of(batch, model)
            parts.append(embedding(call(model, inputs), inputs))
            numbered.append((inputs, torch.arange(count, count + len(parts[-1]))))
            count += len(parts[-1])
    note += "; an example is right if its own unperturbed embedding is the nearest one"
    return Opened(model, numbered, "labels", note, Embeddings(torch.cat(parts)))


def save_beside(source: str, path: Path) -> None:
    """Save the tokenizer and image processor of a model beside a smaller one, so that it can be used like it.

    Args:
        source: The folder or hub name of the model.
        path: The folder of the smaller model.
    """
    transformers = library("transformers")
    for kind in ("AutoTokenizer", "AutoImageProcessor"):
        with contextlib.suppress(Exception):  # models have the one or the other
            getattr(transformers, kind).from_pretrained(source, **NO_CODE).save_pretrained(path)
