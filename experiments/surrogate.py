"""Can a trained network become recurrent afterwards? The runs behind docs/tying.md.

    python experiments/surrogate.py [--data digits] [--seeds 3] [--out runs/surrogate] [--results results/surrogate]

A timm ResNet with 12 blocks that can go is trained: on UCI digits a narrow one, on CIFAR-10 the uncoupled one of
experiments/timm_coupled.py; or the uncoupled ViT there, with 8 blocks, on MNIST. `ic.tie` then leaves 3 different
blocks of it, in several ways and with the same number of steps and the same training images. Each result is evaluated
on the test images on which the planner reports, whose sharing of existing blocks takes no training. As a control, the
network itself is trained on for as many steps.
"""

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save
from timm_coupled import BATCH, EXAMPLES, TESTED, Net, train
from torch import nn
from torch.nn import functional as F

import iterconv as ic
from iterconv.files import to_json, write_atomically
from iterconv.studies.tables import machine
from iterconv.zoo.libraries import library

GROUPS = 3
WAYS: dict[str, dict[str, Any]] = {
    "fit": {"steps": (100, 100, 200)},
    "task only": {"steps": (0, 0, 400)},
    "intact, trained on": {"steps": (0, 0, 400)},
    "dial": {"how": "dial", "steps": (400,)},
}
"""The ways of tying, each with 400 steps of 64 images; and the control, in which nothing is tied."""
EPOCHS = 15


def make_digits(seed: int) -> nn.Module:
    """A timm ResNet for images of 8 x 8 with as many blocks as the one for CIFAR-10, but half its channels."""
    library("timm")
    from timm.models.resnet import BasicBlock, ResNet

    torch.manual_seed(seed)
    net = ResNet(BasicBlock, layers=(5, 5, 5, 1), channels=(8, 16, 32, 32), num_classes=10, in_chans=1)
    net.conv1, net.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def train_digits(net: nn.Module, data: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = EPOCHS * len(list(data.training_batches(BATCH, torch.Generator(), augment=False)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    net.train()
    for _ in range(EPOCHS):
        for inputs, targets in data.training_batches(BATCH, generator, augment=False):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), targets).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def trained(data_name: str, data: Any, seed: int, out: Path) -> nn.Module:
    """The trained network; it is trained unless its weights are there."""
    own = Net("vit" if data_name == "mnist" else "resnet", 0.0, False, seed)
    path = out / f"digits-seed{seed}.safetensors" if data_name == "digits" else own.weights(out)
    net = make_digits(seed) if data_name == "digits" else own.build()
    if not path.exists() and data_name != "digits":
        train(own, path, threading.Event())
    elif not path.exists():
        train_digits(net, data, seed)
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}))
    net.load_state_dict(load_file(path))
    return net.eval()


def error_of(model: nn.Module, batches: list[Any]) -> tuple[float, float]:
    """The error and the mean cross-entropy on all batches."""
    with torch.no_grad():
        outputs = [(model(inputs), targets) for inputs, targets in batches]
    made, targets = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return float((made.argmax(1) != targets).float().mean()), float(F.cross_entropy(made, targets))


def examine(data_name: str, seed: int, out: Path, store: Any) -> None:
    """Tie one network in all ways; ``store`` gets one row for each model that is evaluated."""
    few = {"samples": EXAMPLES, "evaluation_samples": TESTED} if data_name != "digits" else {}
    data = ic.data.load(data_name, **few)
    model = trained(data_name, data, seed, out)
    tests = list(data.batches(data.test, 30 if data_name == "digits" else 200))
    batches = list(data.training_batches(BATCH, torch.Generator().manual_seed(seed), augment=data_name == "cifar10"))
    adapted = ic.adapt(model, batches[0][0][:4])
    counts = {"images": sum(len(y) for _, y in batches), "n": sum(len(y) for _, y in tests[1::2])}

    def note(way: str, part: str, made: nn.Module, seconds: float) -> None:
        error, loss = error_of(made, tests[1::2])  # the half on which the planner reports
        row = {"data": data_name, "seed": seed, "way": way, "part": part, "error": error, "cross_entropy": loss}
        store({**row, **counts, "parameters": sum(p.numel() for p in made.parameters()), "cpu_seconds": seconds})

    note("intact", "", model, 0.0)
    begun = time.process_time()
    plan = ic.plan(adapted, tests, mode="share", budget=GROUPS, beam=2, resamples=1)
    note("planner's sharing", "", plan.apply(GROUPS), time.process_time() - begun)
    for way, wanted in WAYS.items():
        begun = time.process_time()

        def after(part: str, made: nn.Module, way: str = way, begun: float = begun) -> None:
            note(way, part, made, time.process_time() - begun)

        groups = GROUPS if way != "intact, trained on" else sum(len(stage.blocks) for stage in adapted.stages)
        tied = ic.tie(adapted, batches, groups, **wanted, seed=seed, on_part=after)
        print(tied.phases.to_string())
        tied.history.to_csv(out / f"{data_name}-seed{seed}-{way.replace(', ', '-').replace(' ', '-')}.csv", index=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar10", "mnist"), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/surrogate"))
    parser.add_argument("--results", type=Path, default=Path("results/surrogate"))
    options = parser.parse_args()
    for folder in (options.out, options.results):
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []

    def store(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)
        pd.DataFrame(rows).to_csv(options.results / f"{options.data}.csv", index=False, float_format="%.4f")

    for seed in range(options.seeds):
        examine(options.data, seed, options.out, store)
    facts = {"command": f"python experiments/surrogate.py --data {options.data} --seeds {options.seeds}", **machine()}
    write_atomically(options.results / f"{options.data}.json", to_json(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
