"""The training loop, to be read from top to bottom: prepare, train, validate, keep the best, go on."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from iterconv import data
from iterconv.errors import OptionError
from iterconv.paths.contract import StagedModel
from iterconv.training.allocator import keep_freed_memory
from iterconv.training.checkpoint import Checkpoint
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.joint import Joint, apart, join
from iterconv.training.recorded import Recorded
from iterconv.training.team import ALONE, Team
from iterconv.training.trainee import OnEpoch, Trainee

SAVE_EVERY = 30.0
"""Seconds between checkpoints; a run that is killed loses no more than this."""

SAVE_AFTER_EPOCH = 5.0
"""Seconds after which the end of an epoch is saved too, so that short runs lose less."""


@runtime_checkable
class Stop(Protocol):
    """Asks a run to save its state and stop; a ``threading`` or ``multiprocessing`` event will do."""

    def is_set(self) -> bool:
        """Tell whether to stop."""


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
    run = Trainee(config, folder, dataset, on_epoch, team)
    train_together([run], folder, stop, team)
    if run.problem:
        raise run.problem
    return run.network


def train_together(runs: Sequence[Trainee], folder: RunFolder, stop: Stop | None = None, team: Team = ALONE) -> None:
    """Train networks in lockstep, or go on where they stopped; a single run is a stack of one.

    Afterwards each network has its best epoch's weights, unless its run has a ``problem``. A run whose loss becomes NaN
    is left out once the epoch has ended; until then, no other depends on it.

    Args:
        runs: Runs of equal shape, data, schedule and precision.
        folder: The folder of the checkpoint: that of a single run, or one of the stack's own.
        stop: Asked after each step.
        team: The processes that train together; alone for several runs.

    Raises:
        InputError: If the checkpoint is damaged, or a file can't be written.
        KeyboardInterrupt: If it was asked to stop; the state is saved by then.
    """
    keep_freed_memory()
    config, dataset = runs[0].config, runs[0].dataset
    fabric = team.fabric(dataset.train.images.device, config.precision)
    network = join([run.shared for run in runs])
    optimizers = [run.optimizer for run in runs]
    wrapped, *wrapped_optimizers = fabric.setup(_quick(network, config, team), *optimizers)
    checkpoint = Checkpoint(folder, runs)
    checkpoint.restore()
    live = dict(zip(runs, wrapped_optimizers, strict=True))
    while _leave_failed(live, network) and not next(iter(live)).finished:
        wrapped.train()
        for batches in zip(*(run.batches() for run in live), strict=True):
            inputs, targets = zip(*batches, strict=True)
            outputs = apart(wrapped(*inputs))
            losses = [dataset.task.loss(own, right) for own, right in zip(outputs, targets, strict=True)]
            for optimizer in live.values():
                optimizer.zero_grad()
            fabric.backward(sum(losses))
            for optimizer in live.values():
                optimizer.step()
            for run, loss, own, right in zip(live, losses, outputs, targets, strict=True):
                run.progress.count_batch(loss.detach(), own.detach(), right)
            stopping = stop is not None and stop.is_set()
            if stopping or checkpoint.age() > SAVE_EVERY:
                checkpoint.save()
            if stopping:
                raise KeyboardInterrupt
        for run in live:
            run.finish_epoch()
        # At the end in any case: whoever is interrupted while measuring need not train again.
        if any(run.finished or run.problem for run in live) or checkpoint.age() > SAVE_AFTER_EPOCH:
            checkpoint.save()
    for run in live:
        run.keep_best()


def _leave_failed(live: dict[Trainee, Any], network: nn.Module) -> bool:
    """Take the runs that have failed out of the stack; return whether any are left."""
    for position, run in reversed(list(enumerate(live))):
        if run.problem:
            del live[run]
            if isinstance(network, Joint):
                network.leave(position)
    return bool(live)


def _quick(network: nn.Module, config: RunConfig, team: Team) -> Any:
    """The network as it takes training steps fastest."""
    if config.compile:
        return compiled(network)
    on_gpu = next(network.parameters()).device.type == "cuda"
    return Recorded(network) if on_gpu and team.size == 1 else network


def compiled(module: nn.Module) -> Any:
    """Have steps compiled when they are first run; validation and checkpoints use the module as it is."""
    from torch._inductor import cpp_builder  # brings seconds of imports that only compiling needs

    try:
        cpp_builder.get_cpp_compiler()
    except Exception:  # torch has a class of its own for it, which moves between versions
        raise OptionError("compile", True, "needs a C++ compiler; install g++, or leave it out") from None
    return torch.compile(module, mode="reduce-overhead", dynamic=False)
