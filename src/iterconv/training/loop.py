"""The training loop, to be read from top to bottom: prepare, train, validate, keep the best, go on."""

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from iterconv import data, models
from iterconv.coupling import Coupling, couple
from iterconv.errors import InputError, OptionError, require
from iterconv.files import to_safetensors
from iterconv.paths.contract import StagedModel
from iterconv.paths.untouched import untouched
from iterconv.training.allocator import keep_freed_memory
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder, damaged_checkpoint
from iterconv.training.progress import Progress
from iterconv.training.team import ALONE, Team

SAVE_EVERY = 30.0
"""Seconds between checkpoints; a run that is killed loses no more than this."""

SAVE_AFTER_EPOCH = 5.0
"""Seconds after which the end of an epoch is saved too, so that short runs lose less."""

OnEpoch = Callable[[dict[str, float]], None]


@runtime_checkable
class Stop(Protocol):
    """Asks a run to save its state and stop; a ``threading`` or ``multiprocessing`` event will do."""

    def is_set(self) -> bool:
        """Tell whether to stop."""


def make_network(config: RunConfig, dataset: data.Data) -> StagedModel:
    """Make the untrained network of a run; equal seeds give equal weights.

    Args:
        config: The run.
        dataset: The data that it is trained on, which give channels and classes.

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


def check_network(config: RunConfig, dataset: data.Data) -> None:
    """Refuse a network of more stages than the images can be halved, before anything is made or written.

    Args:
        config: The run.
        dataset: The data that it is trained on.

    Raises:
        InputError: If the last stage would have maps of less than one pixel.
    """
    run = config.resolved()
    assert run.stages is not None
    smallest = min(dataset.image_size)
    if 2 ** (run.stages - 1) > smallest:
        raise OptionError("stages", run.stages, f"halve maps of {smallest} pixels to less than one; use fewer")


def train(
    config: RunConfig,
    folder: RunFolder,
    dataset: data.Data,
    on_epoch: OnEpoch | None = None,
    stop: Stop | None = None,
    team: Team = ALONE,
) -> StagedModel:
    """Train one network, or go on where an interrupted run stopped.

    The weights that are kept are those of the epoch with the lowest selection error. Data order and
    augmentation follow from the seed and the epoch alone, so that a run that was interrupted anywhere ends
    with the same bytes as one that was not.

    Source: Lippl et al., Sec. A.4. Choice: batch 128, weight decay 1e-4; of equally good epochs the later
    one is kept, as its learning rate is lower.

    Args:
        config: The run.
        folder: The folder for its files, claimed by this process.
        dataset: Its data, on the device to train on.
        on_epoch: Receives each new row of the history.
        stop: Asked after each step; the processes of a team have to get the same answers.
        team: The processes that train together.

    Returns:
        The network with the best epoch's weights.

    Raises:
        InputError: If the loss becomes NaN (the checkpoint is removed then), a checkpoint is damaged, or a file can't
            be written.
        KeyboardInterrupt: If it was asked to stop; the state is saved by then.
    """
    run = config.resolved()
    assert run.epochs is not None and run.augment is not None and run.batch_size is not None
    keep_freed_memory()
    network, optimizer, coupling = _prepare(run, dataset)
    fabric, shared = team.fabric(dataset.train.images.device, run.precision), team.share(network)
    wrapped, wrapped_optimizer = fabric.setup(_compile(shared) if run.compile else shared, optimizer)
    progress = Progress()
    checkpoint = _Checkpoint(folder, network=network, optimizer=optimizer, coupling=coupling, progress=progress)
    checkpoint.restore(run.epochs)
    while progress.epoch < run.epochs:
        optimizer.param_groups[0]["lr"] = run.learning_rate(progress.epoch)
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
            if stopping or checkpoint.age() > SAVE_EVERY:
                checkpoint.save()
            if stopping:
                raise KeyboardInterrupt
        _check_loss(run, folder, progress)
        row = _epoch_row(run, shared, dataset, progress)
        progress.finish_epoch(row, network)
        folder.write_history(progress.history)
        if on_epoch:
            on_epoch(row)
        # At the end in any case: whoever is interrupted while measuring need not train again.
        if progress.epoch == run.epochs or checkpoint.age() > SAVE_AFTER_EPOCH:
            checkpoint.save()
    coupling.remove()
    network.load_state_dict(progress.best)
    folder.write("best.safetensors", to_safetensors(progress.best))
    return network


def _prepare(run: RunConfig, dataset: data.Data) -> tuple[StagedModel, torch.optim.SGD, Coupling]:
    require("safetensors", "training")  # which is not used before the end
    network = make_network(run, dataset)
    # Channels last is the order in which CPUs and GPUs convolve fastest; the numbers' meaning is the same.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=run.momentum, weight_decay=run.weight_decay)
    groups = network.coupling_groups(run.first_coupled) if run.coupling else []
    return network, optimizer, couple(optimizer, groups, run.coupling, run.kernel)


def _compile(module: nn.Module) -> Any:
    """Have steps compiled when they are first run; validation and checkpoints use the module as it is."""
    from torch._inductor import cpp_builder  # brings seconds of imports that only compiling needs

    try:
        cpp_builder.get_cpp_compiler()
    except Exception:  # torch has a class of its own for it, which moves between versions
        raise OptionError("compile", True, "needs a C++ compiler; install g++, or leave it out") from None
    return torch.compile(module, mode="reduce-overhead", dynamic=False)


class _Checkpoint:
    """The parts of a run that are saved together, and the time of the last save."""

    def __init__(self, folder: RunFolder, **parts: Any) -> None:
        self.folder, self.parts, self.saved = folder, parts, time.monotonic()

    def age(self) -> float:
        """Seconds since the last save, or since the start."""
        return time.monotonic() - self.saved

    def save(self) -> None:
        self.folder.save_checkpoint({name: part.state_dict() for name, part in self.parts.items()})
        self.saved = time.monotonic()

    def restore(self, epochs: int) -> None:
        """Load the folder's checkpoint, if there is one, for a run of so many epochs."""
        state = self.folder.load_checkpoint()
        if state is None:
            return
        try:
            for name in ("network", "optimizer", "coupling"):
                self.parts[name].load_state_dict(state[name])
            _check_momenta(self.parts["optimizer"])
            self.parts["progress"].load_state_dict(state["progress"], epochs, self.parts["network"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError):
            raise damaged_checkpoint(self.folder) from None


def _check_momenta(optimizer: torch.optim.SGD) -> None:
    """Raise ``ValueError`` for momenta of other shapes than the parameters', which torch accepts."""
    for parameter, state in optimizer.state.items():
        momentum = state["momentum_buffer"]
        if momentum is not None and momentum.shape != parameter.shape:
            raise ValueError("momenta of another network")


def _check_loss(run: RunConfig, folder: RunFolder, progress: Progress) -> None:
    if not math.isfinite(progress.train_loss):
        folder.drop_checkpoint()  # nothing can come of this run
        raise InputError(
            f"the loss became {progress.train_loss} in epoch {progress.epoch + 1}; lower --lr "
            f"(now {run.learning_rate(progress.epoch):g})"
        )


def _epoch_row(run: RunConfig, network: nn.Module, dataset: data.Data, progress: Progress) -> dict[str, float]:
    selection_loss, selection_error = evaluate(network, dataset, selection_split(run, dataset))
    return {
        "epoch": progress.epoch + 1,
        "lr": run.learning_rate(progress.epoch),
        "train_loss": progress.train_loss,
        "train_error": progress.train_error,
        "selection_loss": selection_loss,
        "selection_error": selection_error,
    }


def selection_split(config: RunConfig, dataset: data.Data) -> data.Split:
    """Return the split that chooses the best epoch.

    Args:
        config: The run.
        dataset: The data that it is trained on.

    Returns:
        One of its splits.

    Raises:
        InputError: If it is empty.
    """
    split = dataset.test if config.selection == "test" else dataset.validation
    if not len(split):
        raise InputError(f"{dataset.name} has too few images for a validation split; use --selection test")
    return split


def evaluate(network: nn.Module, dataset: data.Data, split: data.Split) -> tuple[float, float]:
    """Compute mean loss and error on a split, in evaluation mode.

    Args:
        network: A network, which is left exactly as it was.
        dataset: The data set, which gives the standardisation and the chance level.
        split: One of its splits, not empty.

    Returns:
        The cross-entropy in nats, and the error in [0, 1].
    """
    loss = error = 0.0
    with untouched(network):
        for inputs, targets in dataset.batches(split):
            outputs = network(inputs)
            loss += dataset.task.cross_entropy(outputs, targets).cpu().double().sum().item()
            error += dataset.task.error(outputs, targets, dataset.chance).cpu().double().sum().item()
    return loss / len(split), error / len(split)
