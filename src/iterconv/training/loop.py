"""The training loop, to be read from top to bottom: prepare, train, validate, keep the best, go on."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from iterconv import data, metrics, models
from iterconv.coupling import couple
from iterconv.errors import InputError, OptionError, require
from iterconv.stages import StagedModel, untouched
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder

SAVE_EVERY = 30.0
"""Seconds between checkpoints; a run that is killed loses no more than this."""

OnEpoch = Callable[[dict[str, float]], None]


@runtime_checkable
class Stop(Protocol):
    """Asks a run to save its state and stop; a ``threading`` or ``multiprocessing`` event will do."""

    def is_set(self) -> bool:
        """Whether to stop."""


def make_network(config: RunConfig, dataset: data.Data) -> StagedModel:
    """The untrained network of a run; equal seeds give equal weights.

    Args:
        config: The run.
        dataset: What it is trained on; gives channels and classes.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: If the stages are too many for the images.
    """
    run = config.resolved()
    assert run.stages is not None and run.init is not None
    smallest = min(dataset.image_size)
    if 2 ** (run.stages - 1) > smallest:
        raise OptionError("stages", run.stages, f"halve maps of {smallest} pixels to less than one; use fewer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return models.resnet(
            run.width,
            run.blocks,
            run.stages,
            dataset.in_channels,
            dataset.classes,
            init=run.init,
            residual=run.residual,
            lipschitz=run.lipschitz,
            norm_scale=run.norm_scale,
        )


def train(
    config: RunConfig, folder: RunFolder, dataset: data.Data, on_epoch: OnEpoch | None = None, stop: Stop | None = None
) -> StagedModel:
    """Train one network, or go on where an interrupted run stopped.

    The weights that are kept are those of the epoch with the lowest selection error. Data order and
    augmentation follow from the seed and the epoch alone, so that a run that was interrupted anywhere ends
    with the same bytes as one that was not.

    Source: Lippl et al., Sec. A.4. Choice: batch 128, weight decay 1e-4; of equally good epochs the later
    one is kept, as its learning rate is lower.

    Args:
        config: The run.
        folder: Where its files go; must be claimed.
        dataset: Loaded with the run's device.
        on_epoch: Called with each new row of the history.
        stop: Looked at after each step.

    Returns:
        The network with the best epoch's weights.

    Raises:
        InputError: If the loss becomes NaN, a checkpoint is damaged, or a file can't be written.
        KeyboardInterrupt: When asked to stop, once the state is saved.
    """
    for library in ("lightning_fabric", "safetensors"):
        require(library, "training")
    from lightning_fabric import Fabric
    from safetensors.torch import save as to_safetensors

    run = config.resolved()
    assert run.epochs is not None and run.augment is not None and run.batch_size is not None
    _selection_split(config, dataset)  # before any work is done
    device = dataset.train.images.device
    fabric = Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1)
    # Channels last is the order in which CPUs and GPUs convolve fastest; the numbers' meaning is the same.
    network = make_network(config, dataset)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=run.momentum, weight_decay=run.weight_decay)
    groups = network.coupling_groups(run.first_coupled) if run.coupling else []
    coupling = couple(optimizer, groups, run.coupling, run.kernel)
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    progress = _Progress()
    saved = folder.load_checkpoint()
    if saved:
        try:
            _restore(saved, network, optimizer, coupling, progress)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError):
            raise InputError(f"the checkpoint in {folder.path} is damaged; delete it to start this run anew") from None
    last_saved = time.monotonic()

    def save() -> None:
        nonlocal last_saved
        state: dict[str, Any] = {"network": network, "optimizer": optimizer, "coupling": coupling, "progress": progress}
        folder.save_checkpoint({name: part.state_dict() for name, part in state.items()})
        last_saved = time.monotonic()

    while progress.epoch < run.epochs:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(progress.epoch)
        wrapped.train()
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + progress.epoch)
        batches = dataset.training_batches(run.batch_size, generator, run.augment)
        for inputs, targets in islice(batches, progress.batch, None):
            outputs = wrapped(inputs)
            loss = metrics.loss(outputs, targets)
            wrapped_optimizer.zero_grad()
            fabric.backward(loss)
            wrapped_optimizer.step()
            progress.count_batch(loss.detach(), outputs.detach(), targets)
            stopping = stop is not None and stop.is_set()
            if stopping or time.monotonic() - last_saved > SAVE_EVERY:
                save()
            if stopping:
                raise KeyboardInterrupt
        row = _epoch_row(config, network, dataset, progress)
        progress.finish_epoch(row, network)
        folder.write("history.csv", pd.DataFrame(progress.history).to_csv(index=False).encode())
        if on_epoch:
            on_epoch(row)
    save()  # whoever is interrupted while measuring need not train again
    coupling.remove()
    network.load_state_dict(progress.best)
    folder.write("best.safetensors", to_safetensors({k: v.contiguous() for k, v in progress.best.items()}))
    return network


class _Progress:
    """How far a run is: epoch and batch, sums over the epoch so far, the history, the best weights."""

    def __init__(self) -> None:
        self.epoch = self.batch = self.samples = 0
        self.loss: float | Tensor = 0.0
        self.error: float | Tensor = 0.0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_error = math.inf

    def count_batch(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        self.batch += 1
        self.samples += len(targets)
        # Sums stay on the device as tensors: asking for a number at each step would make it wait.
        self.loss = self.loss + loss.double() * len(targets)
        self.error = self.error + metrics.error(outputs, targets, 1.0).double().sum()

    def finish_epoch(self, row: dict[str, float], network: StagedModel) -> None:
        self.history.append(row)
        if row["selection_error"] <= self.best_error:
            self.best_error = row["selection_error"]
            self.best = deepcopy(network.state_dict())
        self.epoch += 1
        self.batch = self.samples = 0
        self.loss = self.error = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "loss": float(self.loss), "error": float(self.error)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def _restore(
    saved: dict[str, Any],
    network: StagedModel,
    optimizer: torch.optim.Optimizer,
    coupling: Any,
    progress: _Progress,
) -> None:
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    coupling.load_state_dict(saved["coupling"])
    progress.load_state_dict(saved["progress"])


def _epoch_row(config: RunConfig, network: StagedModel, dataset: data.Data, progress: _Progress) -> dict[str, float]:
    train_loss = float(progress.loss) / progress.samples
    if not math.isfinite(train_loss):
        raise InputError(
            f"the loss became {train_loss} in epoch {progress.epoch + 1}; lower --lr "
            f"(now {config.learning_rate(progress.epoch):g}) and use another --out"
        )
    split = _selection_split(config, dataset)
    selection_loss, selection_error = evaluate(network, dataset, split)
    return {
        "epoch": progress.epoch + 1,
        "lr": config.learning_rate(progress.epoch),
        "train_loss": train_loss,
        "train_error": float(progress.error) / progress.samples,
        "selection_loss": selection_loss,
        "selection_error": selection_error,
    }


def _selection_split(config: RunConfig, dataset: data.Data) -> data.Split:
    split = dataset.test if config.selection == "test" else dataset.validation
    if not len(split):
        raise InputError(f"{dataset.name} has too few images for a validation split; use --selection test")
    return split


def evaluate(network: StagedModel, dataset: data.Data, split: data.Split) -> tuple[float, float]:
    """Mean loss and error on a split, in evaluation mode.

    Args:
        network: Left exactly as it was.
        dataset: Gives the standardisation and the chance level.
        split: One of its splits; must not be empty.

    Returns:
        Cross-entropy in nats, error in [0, 1].
    """
    loss = error = 0.0
    with untouched(network):
        for inputs, targets in dataset.batches(split):
            outputs = network(inputs)
            loss += metrics.cross_entropy(outputs, targets).double().sum().item()
            error += metrics.error(outputs, targets, dataset.chance).double().sum().item()
    return loss / len(split), error / len(split)
