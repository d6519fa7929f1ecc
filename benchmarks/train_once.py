"""One epoch of training in a process of its own; prints the CPU seconds that each image took, and the training loss.

Run by `training.py` as ``python train_once.py WAY WIDTH STAGES IMAGES SIZE``. The ways: ``plain``, a careful loop in
plain PyTorch; ``float32`` and ``bf16``, the package's own training with that precision.
"""

import sys
import tempfile
import time
from pathlib import Path

import lightning_fabric  # noqa: F401  (its import is not timed)
import torch
from torch import Tensor
from torch.nn import functional as F

from iterconv import models
from iterconv.data import sources
from iterconv.data.dataset import Split
from iterconv.data.sources import Source
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.loop import train
from iterconv.training.run import load_data

BATCH, RATE, MOMENTUM, DECAY = 128, 0.1, 0.9, 1e-4


def make_images(count: int, size: int, channels: int) -> tuple[Tensor, Tensor]:
    """Random images of ten classes that differ in brightness, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    noise = torch.randint(128, (count, channels, size, size), generator=generator)
    return (noise + 12 * labels[:, None, None, None]).to(torch.uint8), labels


def plain(width: int, stages: int, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Train an epoch as one would without the package, and return the CPU seconds and the mean loss."""
    torch.manual_seed(0)
    network = models.resnet(width, 16, stages, images.shape[1], 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    mean, deviation = images.float().mean(), images.float().std()
    started, losses = time.process_time(), []
    network.train()
    order = torch.randperm(len(images))
    for batch in order.split(BATCH):
        loss = F.cross_entropy(network((images[batch].float() - mean) / deviation), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return time.process_time() - started, sum(losses) / len(losses)


def packaged(precision: str, width: int, stages: int, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Train an epoch with the package, checkpoints and history included, and return the same."""
    few = Split(images[:20], labels[:20])  # the other way does not validate
    source = Source(Split(images, labels), few, 10)
    sources.SOURCES["benchmark"] = lambda _: source
    options = {"lr": RATE, "lr_divisor": 10, "batch_size": BATCH, "momentum": MOMENTUM, "weight_decay": DECAY}
    config = RunConfig(
        data="benchmark",
        width=width,
        stages=stages,
        epochs=1,
        selection="test",
        augment=False,
        precision=precision,
        **options,
    )
    dataset = load_data(config)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        own = RunFolder(Path(folder) / "run", config)
        with own.claim():
            started = time.process_time()
            train(config, own, dataset, rows.append)
            seconds = time.process_time() - started
    return seconds * len(images) / len(dataset.train), rows[0]["train_loss"]


def main(way: str, width: str, stages: str, count: str, size: str) -> None:
    torch.set_num_threads(1)
    images, labels = make_images(int(count), int(size), 1 if stages == "1" else 3)
    options = int(width), int(stages), images, labels
    seconds, loss = plain(*options) if way == "plain" else packaged(way, *options)
    print(seconds / len(images), loss)


if __name__ == "__main__":
    main(*sys.argv[1:])
