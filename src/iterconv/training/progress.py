"""The progress of a run: epoch and batch, sums over the epoch so far, the history, the best weights."""

import math
from copy import deepcopy
from typing import Any

from torch import Tensor

from iterconv.paths.contract import StagedModel
from iterconv.tasks import task_of

ROW = ("epoch", "lr", "train_loss", "train_error", "selection_loss", "selection_error")
"""The columns of the history."""


class Progress:
    """The state from which a run goes on, besides its network, optimizer and coupling."""

    def __init__(self) -> None:
        self.epoch = self.batch = self.samples = 0
        self.loss = self.error = 0.0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_error = math.inf
        self._uncounted: list[tuple[Tensor, Tensor]] = []

    def count_batch(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Note a training step.

        Args:
            loss: The mean loss of the batch.
            outputs: The network's outputs.
            targets: The labels.
        """
        self.batch += 1
        self.samples += len(targets)
        # Kept on the device until they are needed: asking for a number at each step would make it wait.
        self._uncounted.append((loss, task_of(targets).error(outputs, targets, 1.0)))

    @property
    def train_loss(self) -> float:
        """The mean loss of the epoch so far."""
        self._count()
        return self.loss / self.samples

    @property
    def train_error(self) -> float:
        """The mean error of the epoch so far."""
        self._count()
        return self.error / self.samples

    def _count(self) -> None:
        for loss, error in self._uncounted:
            self.loss += float(loss) * len(error)
            self.error += float(error.cpu().double().sum())
        self._uncounted.clear()

    def finish_epoch(self, row: dict[str, float], network: StagedModel) -> None:
        """Begin the next epoch, and keep the weights if none were better.

        Args:
            row: The epoch's row of the history.
            network: The network at the end of the epoch.
        """
        self.history.append(row)
        if row["selection_error"] <= self.best_error:
            self.best_error = row["selection_error"]
            self.best = deepcopy(network.state_dict())
        self.epoch += 1
        self.batch = self.samples = 0
        self.loss = self.error = 0.0
        self._uncounted.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return everything as numbers and tensors."""
        self._count()
        return {name: value for name, value in vars(self).items() if name != "_uncounted"}

    def load_state_dict(self, state: dict[str, Any], epochs: int, network: StagedModel, finite: bool = True) -> None:
        """Take over the state that ``state_dict`` returned.

        Args:
            state: The state.
            epochs: The number of epochs that the run has.
            network: The network; the best weights have to be of the same shapes.
            finite: False to accept losses that are NaN or infinite.

        Raises:
            ValueError: If the state makes no sense.
            TypeError: Likewise.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError("other parts")
        counts = [state[name] for name in ("epoch", "batch", "samples")]
        sums = [state[name] for name in ("loss", "error")]
        if any(type(count) is not int or count < 0 for count in counts) or state["epoch"] > epochs:
            raise ValueError("counts out of range")
        if any(type(number) is not float or (finite and not math.isfinite(number)) for number in sums):
            raise ValueError("sums that are not numbers")
        _check_history(state["history"], state["epoch"], state["best_error"])
        _check_best(state["best"], network.state_dict() if state["epoch"] else {})
        vars(self).update(state)


def _check_history(history: list[dict[str, float]], epoch: int, best_error: float) -> None:
    if [row["epoch"] for row in history] != list(range(1, epoch + 1)):
        raise ValueError("another number of epochs")
    if any(tuple(row) != ROW or any(type(value) not in (int, float) for value in row.values()) for row in history):
        raise ValueError("rows of something else")
    if best_error != min((row["selection_error"] for row in history), default=math.inf):
        raise ValueError("another best error")


def _check_best(best: dict[str, Tensor], like: dict[str, Tensor]) -> None:
    if best.keys() != like.keys() or any(best[name].shape != like[name].shape for name in like):
        raise ValueError("weights of another network")
