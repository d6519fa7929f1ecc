"""Can a trained network become recurrent afterwards? The runs behind docs/tying.md.

    python experiments/surrogate.py [--data digits] [--groups 3] [--seeds 3] [--out runs/surrogate]

A timm ResNet with 12 blocks that can go is trained: on UCI digits a narrow one, on CIFAR-10 the uncoupled one of
experiments/timm_coupled.py; or the uncoupled ViT there, with 8 blocks, on MNIST. `ic.tie` then leaves few different
blocks of it, in several ways and with the same number of steps and the same training images. Each result is evaluated
on the test images on which the planner reports, whose sharing of existing blocks takes no training. As a control, the
network itself is trained on for as many steps.
"""

import argparse
import itertools
import sys
import threading
import time
from functools import partial
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

WAYS: dict[str, dict[str, Any]] = {
    "fit": {"steps": (100, 100, 200)},
    "task only": {"steps": (0, 0, 400)},
    "dial": {"how": "dial", "steps": (400,)},
}
"""The ways of tying, each with 400 steps of 64 images."""
CONTROL: dict[str, Any] = {"steps": (0, 0, 400)}
"""The same training, in which nothing is tied."""
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


def examine(data_name: str, seed: int, numbers: list[int], out: Path, store: Any) -> None:
    """Tie one network in all ways to several numbers of blocks; ``store`` gets a row for each model."""
    few = {"samples": EXAMPLES, "evaluation_samples": TESTED} if data_name != "digits" else {}
    data = ic.data.load(data_name, **few)
    model = trained(data_name, data, seed, out)
    tests = list(data.batches(data.test, 30 if data_name == "digits" else 200))
    batches = list(data.training_batches(BATCH, torch.Generator().manual_seed(seed), augment=data_name == "cifar10"))
    adapted = ic.adapt(model, batches[0][0][:4])
    counts = {"images": sum(len(y) for _, y in batches), "n": sum(len(y) for _, y in tests[1::2])}
    blocks = sum(len(stage.blocks) for stage in adapted.stages)

    def note(way: str, groups: int, part: str, made: nn.Module, begun: float) -> None:
        error, loss = error_of(made, tests[1::2])  # the half on which the planner reports
        row = {"data": data_name, "seed": seed, "way": way, "groups": groups, "part": part, "error": error}
        row |= {"cross_entropy": loss, **counts, "parameters": sum(p.numel() for p in made.parameters())}
        store({**row, "cpu_seconds": time.process_time() - begun})

    def tie(way: str, groups: int, **wanted: Any) -> None:
        begun = time.process_time()
        tied = ic.tie(adapted, batches, groups, **wanted, seed=seed, on_part=partial(note, way, groups, begun=begun))
        print(tied.phases.to_string())
        name = f"{data_name}-seed{seed}-{way}-{groups}".replace(", ", "-").replace(" ", "-")
        tied.history.to_csv(out / f"{name}.csv", index=False)

    begun = time.process_time()
    note("intact", blocks, "", model, begun)
    plan = ic.plan(adapted, tests, mode="share", budget=min(numbers), beam=2, resamples=0)
    for groups in numbers:
        note("planner's sharing", groups, "", plan.apply(groups), begun)
    tie("intact, trained on", blocks, **CONTROL)
    for groups, (way, wanted) in itertools.product(numbers, WAYS.items()):
        tie(way, groups, **wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar10", "mnist"), default="digits")
    parser.add_argument("--groups", type=int, nargs="+", default=[3], help="numbers of different blocks")
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
        examine(options.data, seed, options.groups, options.out, store)
    numbers = " ".join(map(str, options.groups))
    command = f"python experiments/surrogate.py --data {options.data} --groups {numbers} --seeds {options.seeds}"
    facts = {"command": command, **machine()}
    write_atomically(options.results / f"{options.data}.json", to_json(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
