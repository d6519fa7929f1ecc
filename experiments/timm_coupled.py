"""Does coupling make a network easier to shorten? The runs behind docs/planning.md.

    python experiments/timm_coupled.py [--out runs/timm] [--results results/timm] [--workers 2]

A small timm ResNet on CIFAR-10 and a small timm ViT on MNIST are trained with and without gradient coupling, and then
planned: which blocks can be dropped, which can share weights, and at what error. What is finished is
not done again.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save
from torch import nn

import iterconv as ic
from iterconv.cli.console import bar
from iterconv.figures.style import new_figure, percent, styled
from iterconv.figures.style import save as save_figure
from iterconv.files import write_atomically
from iterconv.studies.executors.base import Executor
from iterconv.studies.executors.here import HereEngine
from iterconv.studies.tables import machine
from iterconv.training.loop import Stop
from iterconv.training.team import default_device
from iterconv.zoo.libraries import library

EXAMPLES, TESTED, BATCH = 10240, 1200, 64
MODES = (("drop", "blocks", 0), ("share", "distinct", 3))
"""What a plan does, what it counts by that, and how few of these are asked for."""


@dataclass(frozen=True)
class Net:
    """One network to train and examine: a job, whose files are its weights, what was measured and the frontiers."""

    model: str
    coupling: float
    equal_start: bool
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.start}-c{self.coupling:g}-seed{self.seed}"

    @property
    def start(self) -> str:
        return "equal" if self.equal_start else "own"

    @property
    def data(self) -> str:
        return "cifar10" if self.model == "resnet" else "mnist"

    @property
    def epochs(self) -> int:
        return 16 if self.model == "resnet" else 10

    def weights(self, root: Path) -> Path:
        return root / f"{self.name}.safetensors"

    def finished(self, root: Path) -> bool:
        return self.weights(root).with_suffix(".json").exists()

    def run(self, root: Path, on_progress: Callable[[], None], stop: Stop) -> None:
        if not self.weights(root).exists():
            train(self, self.weights(root), stop)
        row, frontiers = examine(self, self.weights(root))
        write_atomically(self.weights(root).with_suffix(".csv"), frontiers.to_csv(index=False).encode())
        write_atomically(self.weights(root).with_suffix(".json"), json.dumps(row).encode())

    def build(self) -> nn.Module:
        """The untrained network."""
        library("timm")
        from timm.models.resnet import BasicBlock, ResNet
        from timm.models.vision_transformer import VisionTransformer

        torch.manual_seed(self.seed)
        if self.model == "vit":
            sizes: dict[str, Any] = {"embed_dim": 64, "depth": 8, "num_heads": 4, "mlp_ratio": 2}
            return VisionTransformer(img_size=28, patch_size=4, in_chans=1, num_classes=10, **sizes)
        net = ResNet(BasicBlock, layers=(5, 5, 5, 1), channels=(16, 32, 64, 64), num_classes=10)
        net.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)  # small images: maps of 16 x 16 in stage 1
        net.maxpool = nn.Identity()
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        if self.model == "vit":
            return torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
        return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def nets() -> Iterator[Net]:
    conditions = ((0.0, False), (0.0, True), (0.5, True), (1.0, True))
    for seed, model, (coupling, equal) in itertools.product((0, 1, 2), ("resnet", "vit"), conditions):
        yield Net(model, coupling, equal, seed)


def train(net: Net, path: Path, stop: Stop) -> None:
    """Train one network and store its weights; a network that was stopped is trained from the start again."""
    device = default_device()
    data = ic.data.load(net.data, samples=EXAMPLES, evaluation_samples=TESTED, device=device)
    model, generator = net.build().to(device), torch.Generator().manual_seed(net.seed)
    groups = ic.adapt(model, data.batches(data.test)[0][0]).coupling_groups()
    if net.equal_start:
        for group in groups:
            for block in group[1:]:
                block.load_state_dict(group[0].state_dict())
    optimizer = net.optimizer(model)
    steps = net.epochs * -(-EXAMPLES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=steps)
    ic.couple(optimizer, groups, strength=net.coupling)
    model.train()
    for _ in range(net.epochs):
        if stop.is_set():
            raise KeyboardInterrupt
        for inputs, targets in data.training_batches(BATCH, generator, augment=net.data == "cifar10"):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def examine(net: Net, path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure, plan, and evaluate the smaller models by themselves."""
    data = ic.data.load(net.data, samples=EXAMPLES, evaluation_samples=TESTED)
    model = net.build()
    model.load_state_dict(load_file(path))
    model.eval()
    batches = list(data.batches(data.test, 200))
    report = ic.measure(model, batches, resamples=200)
    indices = report.indices[report.indices.stage == "mean"].set_index("index").value
    adapted = ic.adapt(model, batches[0][0])
    count = ic.effective_parameter_count(model, adapted.coupling_groups())
    frontiers = []
    for mode, counted, least in MODES:
        plan = ic.plan(adapted, batches, mode=mode, budget=least, beam=2)
        rows = plan.frontier.assign(mode=mode, total=plan.frontier.blocks.max())
        rows["rebuilt_error"] = [rebuilt_error(plan.apply(size), batches[1::2]) for size in rows[counted]]
        frontiers.append(rows)
    about = {"model": net.model, "data": net.data, "start": net.start, "coupling": net.coupling, "seed": net.seed}
    with torch.no_grad():
        wrong = sum(int((model(inputs).argmax(1) != targets).sum()) for inputs, targets in batches)
    n = len(data.test)
    row = {**about, "test_error": wrong / n, "n": n, **indices.to_dict()}
    row |= {"raw_parameters": count.raw, "tied_parameters": count.tied, "effective_parameters": count.effective}
    return row, pd.concat(frontiers).assign(**about)


def rebuilt_error(model: nn.Module, batches: list[Any]) -> float:
    """The error of the smaller, ordinary module that a plan makes, evaluated by itself."""
    with torch.no_grad():
        wrong = sum(int((model(inputs).argmax(1) != targets).sum()) for inputs, targets in batches)
    return wrong / sum(len(targets) for _, targets in batches)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/timm"))
    parser.add_argument("--results", type=Path, default=Path("results/timm"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = list(nets())
    with bar("networks", len(jobs)) as advance:
        done: list[str] = []

        def on_finished(net: Net) -> None:
            done.append(net.name)
            advance(len(done))

        failed = Executor(HereEngine(options.workers)).run(jobs, options.out, on_finished=on_finished)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if failed:
        return 1
    measured = [net.weights(options.out).with_suffix(".json") for net in jobs]
    options.results.mkdir(parents=True, exist_ok=True)
    runs = pd.DataFrame([json.loads(path.read_text()) for path in measured])
    frontiers = pd.concat([pd.read_csv(path.with_suffix(".csv")) for path in measured])
    runs.to_csv(options.results / "runs.csv", index=False, float_format="%.10g")
    frontiers.to_csv(options.results / "frontiers.csv", index=False, float_format="%.4f")
    facts = {"command": "python experiments/timm_coupled.py", **machine()}
    (options.results / "facts.json").write_text(pd.Series(facts).to_json(indent=1))
    save_figure(draw(frontiers), options.results / "frontiers")
    return 0


def draw(frontiers: pd.DataFrame) -> Figure:
    """Error against blocks executed (left) and against different blocks (right); one row a model."""
    styles = {"own": "o-", "equal": "s--"}
    with styled():
        figure = new_figure(9, 6)
        axes = figure.subplots(2, 2, sharey="row")
        for row, (model, name) in enumerate((("resnet", "ResNet, CIFAR-10"), ("vit", "ViT, MNIST"))):
            for column, (mode, counted, _) in enumerate(MODES):
                here = frontiers[(frontiers.model == model) & (frontiers["mode"] == mode)]
                for (start, coupling), group in here.groupby(["start", "coupling"], sort=False):
                    found = group.groupby(counted).error.agg(["mean", "std"])
                    label = f"coupling {coupling:g}, {start} start"
                    axes[row, column].errorbar(
                        found.index, found["mean"], found["std"], fmt=styles[start], ms=3, lw=1, label=label
                    )
                axes[row, column].invert_xaxis()
                axes[row, column].set_xlabel("blocks executed" if column == 0 else "different blocks")
                axes[row, column].set_title(f"{name}: {('blocks dropped', 'weights shared')[column]}", fontsize=9)
            axes[row, 0].set_ylabel("error")
            percent(axes[row, 0])
        axes[0, 0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    sys.exit(main())
