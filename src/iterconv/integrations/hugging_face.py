"""Callbacks for Hugging Face's Trainer: indices against epochs, and a coupling that follows a schedule."""

from typing import Any

from torch import nn

from iterconv.errors import require
from iterconv.integrations.watching import Dial, Measuring, Schedule

_Callback: Any = require("transformers", "callbacks for Hugging Face's Trainer").TrainerCallback


class MeasureCallback(Measuring, _Callback):
    """Measure the indices of a model while Hugging Face's Trainer trains it, and add them to its log history.

    Args:
        batches: Batches as for ``iterconv.measure``: a list or a DataLoader, which is read at each measurement.
        find: A function from the trained model to the one that is measured; by default itself.
        every: The number of epochs from one measurement to the next.
        options: Options of ``iterconv.measure``.

    Raises:
        InputError: If batches can be read only once, or ``every`` is not a number of epochs.
    """

    def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """Measure, on the first process only."""
        if state.is_world_process_zero:
            found = self._watch.measure(model, round(state.epoch))
            if found:
                state.log_history.append({"epoch": state.epoch, "step": state.global_step, **found})


class CoupleCallback(_Callback):
    """Couple the gradients of groups of modules while Hugging Face's Trainer trains them.

    Source: Lippl et al., Sec. 4.1.

    Args:
        groups: The groups as for ``iterconv.couple``, or a function that makes them from the trained model.
        strength: The strength in [0, 1], or a function of the epoch (from 0), which makes it a schedule.
        kernel: The kernel as for ``iterconv.couple``.
    """

    def __init__(self, groups: Any, strength: Schedule, *, kernel: Any = "uniform") -> None:
        self._dial = Dial(groups, strength, kernel)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **kwargs: Any
    ) -> None:
        """Couple the trainer's optimizer."""
        self._dial.stop()  # of a training that was broken off
        self._dial.start(model, [optimizer], int(state.epoch or 0))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Turn the dial."""
        self._dial.turn(int(state.epoch or 0))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Uncouple the optimizer."""
        self._dial.stop()
