"""Is iterating to a tolerance a gain of convergence? The runs behind docs/exits.md.

    pip install 'iterconv[repro]'
    python experiments/equilibrium.py [--results results/equilibrium] [--epochs 20] [--width 8]

A tied, properly convergent network of one stage is trained on the UCI digits by the implicit gradient, and the same
network by the unrolled gradient of 16 applications. Both are then iterated to a tolerance, with and without Anderson
acceleration. What is kept for a backward pass is counted at 16, 64 and 256 applications, and so is the growth of the
peak memory of a process that makes one training step. Times are CPU seconds, the least of five calls.
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import iterconv as ic
from iterconv.models import Iterating, to_equilibrium
from iterconv.studies.tables import machine

ROOT = Path(__file__).parents[1]
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
UNROLLED = 16


def make(width: int) -> ic.StagedModel:
    """One properly convergent block, which is applied as often as it takes, in a net for the digits."""
    torch.manual_seed(0)
    return ic.models.resnet(width, 1, 1, in_channels=1, residual="proper")


def freeze(net: nn.Module) -> None:
    """Keep the running statistics of all batch norms, as the fixed point has to."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


class Unrolled(nn.Module):
    """The fixed point's function, applied a number of times, through which gradients are propagated."""

    def __init__(self, made: nn.Sequential, steps: int) -> None:
        super().__init__()
        self.made, self.steps = made, steps

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        stem, point, head = self.made
        x = stem(images)
        block: Any = point.stage.blocks[0]
        c, z = point._constant((x.shape[-2], x.shape[-1])), x
        for _ in range(self.steps):
            hidden = block.conv1(F.relu(block.bn1(z)))
            z = x + F.conv2d(F.relu(block.bn2(hidden)), block.conv2.weight / c, padding=1)
        return head(z)


def train(model: nn.Module, data: Any, epochs: int) -> float:
    """Train with Adam and frozen statistics; returns CPU seconds an epoch."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    started = time.process_time()
    for epoch in range(epochs):
        model.train()
        freeze(model)
        for images, labels in data.training_batches(64, torch.Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return (time.process_time() - started) / epochs


def measure(model: nn.Sequential, images: Tensor, labels: Tensor, training: str) -> list[dict[str, Any]]:
    """Error, applications and time against the tolerance, with and without acceleration."""
    model.eval()
    point: Any = model[1]
    rows = []
    with torch.no_grad():
        point.how = Iterating(tolerance=1e-6, most=500)
        exact = model(images)
        for window in (0, 5):
            for tolerance in TOLERANCES:
                point.how = Iterating(tolerance=tolerance, most=500, window=window)
                seconds = clock(lambda: model(images))
                outputs, found = model(images), point.found
                rows.append(
                    {
                        "training": training,
                        "window": window,
                        "tolerance": tolerance,
                        "applications": float(found.applications.double().mean()),
                        "most": int(found.applications.max()),
                        "error": float((outputs.argmax(1) != labels).double().mean()),
                        "agreement": float((outputs.argmax(1) == exact.argmax(1)).double().mean()),
                        "seconds": seconds,
                        "n": len(labels),
                    }
                )
    return rows


def clock(function: Callable[[], Any]) -> float:
    """CPU seconds of a call, the least of five, since other work shares the machine's caches."""
    found = []
    for _ in range(5):
        started = time.process_time()
        function()
        found.append(time.process_time() - started)
    return min(found)


def kept_bytes(function: Callable[[], Any]) -> int:
    """The bytes of all different storages that are kept for the backward pass."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak_growth(kind: str, steps: int, width: int, images: Tensor) -> float:
    """The MiB by which one training step raises the peak memory of this process, which is to be a fresh one."""
    torch.set_num_threads(1)
    made = to_equilibrium(make(width), Iterating(tolerance=1e-300, most=steps, window=0))
    freeze(made)
    with torch.no_grad():
        made(images)  # what every pass takes is there before
    model = made if kind == "implicit" else Unrolled(made, steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(images).square().mean().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def peaks(width: int, images: Tensor) -> list[dict[str, Any]]:
    """The growth of the peak memory at some numbers of applications, each in a process of its own."""
    rows: list[dict[str, Any]] = []
    for steps in (16, 64, 256):
        row: dict[str, Any] = {"applications": steps}
        for kind in ("unrolled", "implicit"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row[f"{kind}_peak_mib"] = pool.apply(peak_growth, (kind, steps, width, images))
        rows.append(row)
    return rows


def memory(width: int, images: Tensor) -> list[dict[str, Any]]:
    """What is kept for the backward pass at some numbers of applications, unrolled and implicit."""
    rows = []
    for steps in (16, 64, 256):
        made = to_equilibrium(make(width), Iterating(tolerance=1e-300, most=steps, window=0))
        freeze(made)
        unrolled = kept_bytes(lambda made=made, steps=steps: Unrolled(made, steps)(images))
        rows.append({"applications": steps, "unrolled": unrolled, "implicit": kept_bytes(lambda m=made: m(images))})
    return rows


def draw(table: pd.DataFrame, kept: pd.DataFrame, path: Path) -> None:
    """Draw error and applications against the tolerance, and memory against applications."""
    from iterconv.figures.style import STAGE_COLOURS, new_figure, percent, styled, write

    with styled():
        figure = new_figure(10, 3.2)
        errors, applications, bytes_ = figure.subplots(1, 3)
        for number, (training, own) in enumerate(table.groupby("training", sort=False)):
            for window, rows in own.groupby("window"):
                line = "o-" if window else "o:"
                label = f"{training}, {'Anderson' if window else 'plain'}"
                for axes, column in ((errors, "error"), (applications, "applications")):
                    axes.plot(
                        rows.tolerance, rows[column], line, color=STAGE_COLOURS[number], markersize=3, label=label
                    )
        for axes in (errors, applications):
            axes.set_xscale("log")
            axes.invert_xaxis()
            axes.set_xlabel("tolerance")
        errors.set_ylabel(f"error (n = {table.n.iloc[0]})")
        errors.set_ylim(0, 1.1 * table.error.max())
        percent(errors)
        applications.set_ylabel("mean applications")
        applications.set_ylim(0, 1.1 * table.applications.max())
        for number, name in enumerate(("implicit", "unrolled")):
            bytes_.plot(kept.applications, kept[name] / 2**20, "o-", color=STAGE_COLOURS[number], label=name)
        bytes_.set(xscale="log", yscale="log", xlabel="applications in training", ylabel="MiB kept for the gradient")
        bytes_.set_xticks(list(kept.applications), [str(count) for count in kept.applications])
        bytes_.minorticks_off()
        bytes_.legend()
        figure.legend(*errors.get_legend_handles_labels(), loc="outside lower left", ncols=4)
        write(figure, path)


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "equilibrium")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=8)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    data = ic.data.load("digits", evaluation_samples=200)
    images, labels = (torch.cat(parts) for parts in zip(*data.batches(data.test), strict=True))
    rows, facts = [], {"machine": machine(), "epochs": options.epochs, "width": options.width}
    own_peaks = pd.DataFrame(peaks(options.width, images[:64]))
    kept = pd.DataFrame(memory(options.width, images[:64])).merge(own_peaks, on="applications")
    kept.to_csv(options.results / "memory.csv", index=False)
    for training in ("implicit", f"unrolled {UNROLLED}"):
        model = to_equilibrium(make(options.width), Iterating(tolerance=1e-3))
        own = model if training == "implicit" else Unrolled(model, UNROLLED)
        facts[f"seconds an epoch, {training}"] = train(own, data, options.epochs)
        rows += measure(model, images, labels, training)
        table = pd.DataFrame(rows)
        table.to_csv(options.results / "tolerance.csv", index=False, float_format="%.4g")
        (options.results / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        draw(table, kept, options.results / "equilibrium.png")
        print(pd.DataFrame(rows[-2 * len(TOLERANCES) :]).to_string(index=False), json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
