"""Can a trained network become recurrent afterwards? The runs behind docs/tying.md.

    python experiments/surrogate.py [--out runs/timm] [--results results/timm]

The first ResNet of experiments/timm_coupled.py (12 blocks, uncoupled, seed 0) is trained unless it is there already.
`ic.tie` then leaves 3 different blocks of it, in several ways and with the same number of steps and the same training
images, and each of them is evaluated on the images on which the planner's sharing was reported.
"""

import argparse
import ast
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from timm_coupled import BATCH, EXAMPLES, TESTED, Net, train
from torch import nn
from torch.nn import functional as F

import iterconv as ic
from iterconv.adapters.rebuild import rebuild

NET = Net("resnet", 0.0, False, 0)
GROUPS = 3
WAYS: dict[str, dict[str, Any]] = {
    "fit": {"steps": (100, 100, 200)},
    "dial": {"how": "dial", "steps": (400,)},
    "task only": {"steps": (0, 0, 400)},
}
"""The ways of tying, each with 400 steps of 64 images."""


def error_of(model: nn.Module, batches: list[Any]) -> tuple[float, float]:
    """The error and the mean cross-entropy on all batches."""
    with torch.no_grad():
        outputs = [(model(inputs), targets) for inputs, targets in batches]
    made, targets = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return float((made.argmax(1) != targets).float().mean()), float(F.cross_entropy(made, targets))


def planned_route(results: Path) -> Any:
    """The route with 3 different blocks that the planner chose for this network."""
    table = pd.read_csv(results / "frontiers.csv")
    own = table[(table.model == NET.model) & (table.start == NET.start) & (table.coupling == 0) & (table.seed == 0)]
    [route] = own[(own.saves == "weights") & (own.distinct == GROUPS)].route
    return ast.literal_eval(route)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/timm"))
    parser.add_argument("--results", type=Path, default=Path("results/timm"))
    options = parser.parse_args()
    weights = NET.weights(options.out)
    if not weights.exists():
        train(NET, weights, threading.Event())
    data = ic.data.load(NET.data, samples=EXAMPLES, evaluation_samples=TESTED)
    model = NET.build()
    model.load_state_dict(load_file(weights))
    model.eval()
    held_out = list(data.batches(data.test, 200))[1::2]  # on which the planner reports
    batches = list(data.training_batches(BATCH, torch.Generator().manual_seed(0), augment=True))
    adapted = ic.adapt(model, batches[0][0])
    rows = []

    def note(way: str, part: str, made: nn.Module, seconds: float = 0.0) -> None:
        error, loss = error_of(made, held_out)
        rows.append({"way": way, "part": part, "error": error, "cross_entropy": loss, "cpu_seconds": seconds})
        print(rows[-1], flush=True)
        options.results.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(options.results / "surrogate.csv", index=False, float_format="%.4f")

    note("intact", "", model)
    note("planner's sharing", "", rebuild(adapted, planned_route(options.results)))
    for way, wanted in WAYS.items():
        begun = time.process_time()
        tied = ic.tie(
            adapted,
            batches,
            GROUPS,
            **wanted,
            on_part=lambda part, made, way=way, begun=begun: note(way, part, made, time.process_time() - begun),
        )
        note(way, "end", tied.model, time.process_time() - begun)
        tied.history.to_csv(options.out / f"surrogate-{way.replace(' ', '-')}.csv", index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
