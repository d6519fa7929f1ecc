"""A run in the training loop: what it is trained with, what it does at the end of an epoch, and what is left of it."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from iterconv import data
from iterconv.coupling import couple
from iterconv.errors import InputError, require
from iterconv.files import to_safetensors
from iterconv.paths.untouched import untouched
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.network import make_network
from iterconv.training.progress import Progress
from iterconv.training.team import ALONE, Team

OnEpoch = Callable[[dict[str, float]], None]


class Trainee:
    """One run in the loop: its network, optimizer and coupling, its data, and how far it is.

    Args:
        config: The run.
        folder: The folder for its files, claimed by this process.
        dataset: Its data, on the device to train on.
        on_epoch: Receives each new row of the history.
        team: The processes that train together.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        dataset: data.Data,
        on_epoch: OnEpoch | None = None,
        team: Team = ALONE,
    ) -> None:
        require("safetensors", "training")  # which is not used before the end
        run = config.resolved()
        assert run.epochs is not None
        self.config, self.epochs, self.folder, self.dataset = run, run.epochs, folder, dataset
        self.network = make_network(run, dataset)
        # Channels last is the order in which CPUs and GPUs convolve fastest; the numbers' meaning is the same.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=1.0, momentum=run.momentum, weight_decay=run.weight_decay
        )
        groups = self.network.coupling_groups(run.first_coupled) if run.coupling else []
        self.coupling = couple(self.optimizer, groups, run.coupling, run.kernel)
        self.progress = Progress()
        self.problem: InputError | None = None
        """The reason why the run has failed, if it has."""
        self.shared = team.share(self.network)
        """The network as all processes of the team compute it."""
        self._on_epoch = on_epoch

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Begin the epoch, or go on with it: set its learning rate, and return the batches that are left of it."""
        run, epoch = self.config, self.progress.epoch
        assert run.augment is not None and run.batch_size is not None
        self.optimizer.param_groups[0]["lr"] = run.learning_rate(epoch)
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        return islice(self.dataset.training_batches(run.batch_size, generator, run.augment), self.progress.batch, None)

    @property
    def finished(self) -> bool:
        """True if all epochs are over."""
        return self.progress.epoch == self.epochs

    def finish_epoch(self) -> None:
        """Validate, keep the weights if none were better, and tell of the epoch; or fail if the loss is no number."""
        progress = self.progress
        if not math.isfinite(progress.train_loss):
            self.problem = InputError(
                f"the loss became {progress.train_loss} in epoch {progress.epoch + 1}; lower --lr "
                f"(now {self.config.learning_rate(progress.epoch):g})"
            )
            return
        loss, error = evaluate(self.shared, self.dataset, selection_split(self.config, self.dataset))
        row = {
            "epoch": progress.epoch + 1,
            "lr": self.config.learning_rate(progress.epoch),
            "train_loss": progress.train_loss,
            "train_error": progress.train_error,
            "selection_loss": loss,
            "selection_error": error,
        }
        progress.finish_epoch(row, self.network)
        self.folder.write_history(progress.history)
        if self._on_epoch:
            self._on_epoch(row)

    def keep_best(self) -> None:
        """Leave the network with the best epoch's weights, and write them."""
        self.coupling.remove()
        self.network.load_state_dict(self.progress.best)
        self.folder.write("best.safetensors", to_safetensors(self.progress.best))

    def state_dict(self) -> dict[str, Any]:
        """Return everything from which the run can go on."""
        return {name: getattr(self, name).state_dict() for name in ("network", "optimizer", "coupling", "progress")}


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
