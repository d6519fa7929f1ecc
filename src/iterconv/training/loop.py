"""The training loop, to be read from top to bottom: prepare, train, validate, keep the best, go on."""

import math
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch

from iterconv import data, models
from iterconv.coupling import couple
from iterconv.errors import InputError, OptionError, require
from iterconv.files import to_safetensors
from iterconv.paths.contract import StagedModel
from iterconv.paths.untouched import untouched
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder, damaged_checkpoint
from iterconv.training.progress import Progress

SAVE_EVERY = 30.0
"""Seconds between checkpoints; a run that is killed loses no more than this."""

SAVE_AFTER_EPOCH = 5.0
"""Seconds after which the end of an epoch is saved too, so that short runs lose less."""

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
        InputError: If it does not fit the images or the machine's memory.
    """
    check_network(config, dataset)
    run = config.resolved()
    assert run.stages is not None and run.init is not None
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


def check_network(config: RunConfig, dataset: data.Data, copies: int = 1) -> None:
    """Refuse a network that can't be made, before anything is made or written.

    Args:
        config: The run.
        dataset: What it is trained on.
        copies: Of all weights, that have to be in memory.

    Raises:
        InputError: If there are more stages than the images can be halved, or more weights than memory.
    """
    run = config.resolved()
    assert run.stages is not None
    smallest = min(dataset.image_size)
    if 2 ** (run.stages - 1) > smallest:
        raise OptionError("stages", run.stages, f"halve maps of {smallest} pixels to less than one; use fewer")
    weights = sum(run.blocks * 2 * 9 * (run.width * 2**stage) ** 2 for stage in range(run.stages))  # of convolutions
    needed, there = 4 * copies * weights, _memory()
    if there is not None and needed > there:
        problem = f"with {run.blocks} blocks and {run.stages} stage(s) needs {needed / 2**30:,.0f} GiB for its weights"
        raise OptionError(
            "width", run.width, f"{problem}, more than the {there / 2**30:,.0f} GiB of this machine; use less of them"
        )


TRAINING_COPIES = 4
"""Of the weights: themselves, gradients, momentum, the best epoch's."""


def _memory() -> int | None:
    """Bytes of this machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


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
        InputError: If the loss becomes NaN (the checkpoint is removed then), a checkpoint is damaged, or a file can't
            be written.
        KeyboardInterrupt: When asked to stop, once the state is saved.
    """
    for library in ("lightning_fabric", "safetensors"):
        require(library, "training")
    from lightning_fabric import Fabric

    run = config.resolved()
    assert run.epochs is not None and run.augment is not None and run.batch_size is not None
    device = dataset.train.images.device
    fabric = Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1)
    # Channels last is the order in which CPUs and GPUs convolve fastest; the numbers' meaning is the same.
    network = make_network(config, dataset)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=run.momentum, weight_decay=run.weight_decay)
    groups = network.coupling_groups(run.first_coupled) if run.coupling else []
    coupling = couple(optimizer, groups, run.coupling, run.kernel)
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    progress = Progress()
    saved = folder.load_checkpoint()
    if saved is not None:
        try:
            network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            _check_momenta(optimizer)
            coupling.load_state_dict(saved["coupling"])
            progress.load_state_dict(saved["progress"], run.epochs, network)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError):
            raise damaged_checkpoint(folder) from None
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
            loss = dataset.task.loss(outputs, targets)
            wrapped_optimizer.zero_grad()
            fabric.backward(loss)
            wrapped_optimizer.step()
            progress.count_batch(loss.detach(), outputs.detach(), targets)
            stopping = stop is not None and stop.is_set()
            if stopping or time.monotonic() - last_saved > SAVE_EVERY:
                save()
            if stopping:
                raise KeyboardInterrupt
        if not math.isfinite(progress.train_loss):
            folder.drop_checkpoint()  # nothing can come of this run
            raise InputError(
                f"the loss became {progress.train_loss} in epoch {progress.epoch + 1}; lower --lr "
                f"(now {config.learning_rate(progress.epoch):g})"
            )
        row = _epoch_row(config, network, dataset, progress)
        progress.finish_epoch(row, network)
        folder.write("history.csv", pd.DataFrame(progress.history).to_csv(index=False).encode())
        if on_epoch:
            on_epoch(row)
        # At the end in any case: whoever is interrupted while measuring need not train again.
        if progress.epoch == run.epochs or time.monotonic() - last_saved > SAVE_AFTER_EPOCH:
            save()
    coupling.remove()
    network.load_state_dict(progress.best)
    folder.write("best.safetensors", to_safetensors(progress.best))
    return network


def _check_momenta(optimizer: torch.optim.SGD) -> None:
    """Raise ``ValueError`` where they are not the parameters', which torch doesn't look at."""
    for parameter, state in optimizer.state.items():
        momentum = state["momentum_buffer"]
        if momentum is not None and momentum.shape != parameter.shape:
            raise ValueError("momenta of another network")


def _epoch_row(config: RunConfig, network: StagedModel, dataset: data.Data, progress: Progress) -> dict[str, float]:
    selection_loss, selection_error = evaluate(network, dataset, selection_split(config, dataset))
    return {
        "epoch": progress.epoch + 1,
        "lr": config.learning_rate(progress.epoch),
        "train_loss": progress.train_loss,
        "train_error": progress.train_error,
        "selection_loss": selection_loss,
        "selection_error": selection_error,
    }


def selection_split(config: RunConfig, dataset: data.Data) -> data.Split:
    """The split that chooses the best epoch.

    Args:
        config: The run.
        dataset: What it is trained on.

    Returns:
        One of its splits.

    Raises:
        InputError: If it is empty.
    """
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
            loss += dataset.task.cross_entropy(outputs, targets).cpu().double().sum().item()
            error += dataset.task.error(outputs, targets, dataset.chance).cpu().double().sum().item()
    return loss / len(split), error / len(split)
