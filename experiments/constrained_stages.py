"""What decides whether constrained residual networks behave as in the paper? The runs behind docs/constrained.md.

    python experiments/constrained_stages.py [--out runs/constrained] [--results results/constrained] [--workers 2]

One factor at a time is changed from two anchors, one stage of 16 blocks and three stages of 5 (UCI digits, width 8, 12
epochs). Runs that are finished are not repeated; an interrupted call goes on.
"""

import argparse
import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from iterconv import lipschitz, measure, paths
from iterconv.cli.console import bar
from iterconv.figures.style import CONDITION_COLOURS, new_figure, percent, save, styled
from iterconv.files import write_atomically
from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.jobs import TrainingRun
from iterconv.studies.tables import machine
from iterconv.training.config import RunConfig
from iterconv.training.run import open_run

SEEDS = (0, 1, 2)
DIGITS = RunConfig(data="digits", stages=1, blocks=16, width=8, epochs=12, batch_size=64)
MNIST = replace(DIGITS, data="mnist", blocks=5, samples=2048, evaluation_samples=500, epochs=6)
MANY = 64
"""Extra evaluations of the last block, besides the 16 of the index."""


def grid() -> dict[str, list[RunConfig]]:
    """Networks by the factor that they are about; ``improper`` ones, to be trained as others too."""
    one, three = DIGITS, replace(DIGITS, stages=3, blocks=5)
    shapes = ((1, 5), (1, 16), (2, 5), (3, 5))
    return {
        "stages and blocks": [replace(DIGITS, stages=stages, blocks=blocks) for stages, blocks in shapes],
        "width": [replace(net, width=16) for net in (one, three)],
        "training length": [replace(net, epochs=40) for net in (one, three)],
        "few samples": [replace(net, samples=300, epochs=40) for net in (one, three)],
        "data": [MNIST, replace(MNIST, stages=3)],
        "bound": [replace(net, lipschitz=mu) for mu in (3.0, 10.0) for net in (one, three)],
    }


def runs() -> Iterator[tuple[str, RunConfig]]:
    for factor, nets in grid().items():
        for net in nets:
            compared = factor in ("stages and blocks", "data")
            kinds = ("ordinary", "improper", "proper") if compared else ("improper", "proper")
            for kind in kinds:
                for seed in SEEDS:
                    yield factor, replace(net, residual=kind, seed=seed)


def examine(folder: Path) -> dict[str, float]:
    """What the indices do not tell about a trained network.

    Returns:
        Indices with 16 and 64 extra evaluations; the error without any block of any stage; how far stages move their
        input, relative to its norm; over all blocks, the mean of estimate, bound, bound of f/c and measured constant;
        and the ratio of the bounds with the statistics of a training batch and with the running ones.
    """
    network, dataset, _ = open_run(folder, "cpu")
    batches = dataset.batches(dataset.test)
    found: dict[str, float] = {}
    for extra in (16, MANY):
        indices = measure(network, batches, extra_evaluations=extra, resamples=0, min_margin=0.05).indices
        means = indices[indices["stage"] == "mean"].set_index("index")["value"]
        found[f"divergence_{extra}"] = float(means["divergence"])
    found |= {name: float(means[name]) for name in ("convergence", "recurrence")}
    full, none = paths.full_route(network.stages), tuple(() for _ in network.stages)
    wrong = {full: 0, none: 0}
    moved = []
    network.eval()
    with torch.no_grad():
        for inputs, targets in batches:
            for route, outcome in paths.evaluate(network, [full, none], inputs):
                wrong[route] += int((outcome.output.argmax(1) != targets).sum())
        z = network.stem(batches[0][0])
        for number, stage in enumerate(network.stages):
            entered = z if number == 0 else network.transitions[number - 1](z)
            z = entered
            for block in stage.full_path:
                z = stage.step(block, z, entered)
            moved.append(float(((z - entered).flatten(1).norm(dim=1) / entered.flatten(1).norm(dim=1)).mean()))
    found |= {"error": wrong[full] / len(dataset.test), "error_without_stages": wrong[none] / len(dataset.test)}
    found["moved"] = float(np.mean(moved))
    sample = batches[0][0][:64]
    table = lipschitz.audit(network, sample, iterations=20)
    for column in ("estimate", "bound", "constrained", "measured"):
        found[column] = float(table[column].mean())
    found["largest_measured"] = float(table["measured"].max())
    found["smallest_bound"], found["largest_bound"] = float(table["bound"].min()), float(table["bound"].max())
    found["batch_over_running"] = float((_with_batch_statistics(network, dataset) / table["bound"]).mean())
    return found


def _with_batch_statistics(network: torch.nn.Module, dataset) -> pd.Series:  # type: ignore[no-untyped-def]
    """The bounds with the variances of one training batch of 64, as training has them."""
    twin = copy.deepcopy(network).train()
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics become those of the next batch
    inputs, _ = next(iter(dataset.training_batches(64, torch.Generator().manual_seed(0))))
    with torch.no_grad():
        twin(inputs)
    return lipschitz.audit(twin.eval(), inputs[:2], iterations=1)["bound"]


def draw(table: pd.DataFrame) -> Figure:
    """What the constrained stages do for the error, and how far they move their input."""
    table = table.drop_duplicates(
        ["data", "stages", "blocks", "width", "epochs", "samples", "lipschitz", "residual", "seed"]
    )
    table = table[(table["data"] == "digits") & ((table["lipschitz"] == 0.95) | (table["residual"] == "ordinary"))]
    with styled():
        figure = new_figure(8.5, 3.4)
        panels = list(figure.subplots(1, 2))
        for (kind, stages), own in table.groupby(["residual", "stages"]):
            style = {"linestyle": "none", "marker": "osD"[stages - 1], "alpha": 0.7, "color": COLOURS[kind]}
            label = f"{kind}, {stages} stage{'s' * (stages > 1)}"
            panels[0].plot(own["error_without_stages"], own["error"], label=label, **style)
            panels[1].plot(own["moved"], own["divergence_16"], **style)
        panels[0].set_xlabel("test error without any block")
        panels[0].set_ylabel("test error")
        panels[1].set_xlabel("way of a stage, relative to its input")
        panels[1].set_xscale("log")
        panels[1].set_ylabel("Divergence Index")
        for axis in ("x", "y"):
            percent(panels[0], axis)
        panels[0].legend(fontsize=7)
    return figure


COLOURS = {"ordinary": CONDITION_COLOURS[0], "improper": CONDITION_COLOURS[1], "proper": CONDITION_COLOURS[4]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/constrained"))
    parser.add_argument("--results", type=Path, default=Path("results/constrained"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    labelled = list(runs())
    distinct = {run.name: run for _, run in labelled}
    jobs = sorted(map(TrainingRun, distinct.values()), key=lambda job: job.seconds, reverse=True)
    with bar("runs", len(jobs)) as advance:
        done: list[str] = []

        def on_finished(job: TrainingRun) -> None:
            done.append(job.name)
            advance(len(done))

        failed = Executor(HereEngine(options.workers)).run(jobs, options.out, on_finished=on_finished)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    rows = {}
    with bar("examined", len(distinct)) as advance:
        for number, (name, run) in enumerate(distinct.items(), 1):
            if name not in failed:
                kept = options.out / name / "examined.json"
                if not kept.exists():
                    write_atomically(kept, pd.Series(examine(options.out / name)).to_json().encode())
                rows[name] = {**run.to_dict(), **pd.read_json(kept, typ="series").to_dict()}
            advance(number)
    table = pd.DataFrame([{"factor": factor, **rows[run.name]} for factor, run in labelled if run.name in rows])
    options.results.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.results / "runs.csv", index=False, float_format="%.5g")
    facts = {"command": "python experiments/constrained_stages.py", **machine()}
    (options.results / "facts.json").write_text(pd.Series(facts).to_json(indent=1))
    save(draw(table), options.results / "constrained")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
