"""Callbacks for Lightning: indices against epochs, and a coupling that follows a schedule."""

import sys
from typing import Any

from iterconv.errors import require
from iterconv.integrations.watching import Dial, Measuring, Schedule

# Lightning comes under two names, whose trainers accept callbacks of their own name only.
_NAME = "lightning.pytorch" if "lightning" in sys.modules else "pytorch_lightning"
_Callback: Any = require(_NAME, "callbacks for Lightning").Callback


class MeasureCallback(Measuring, _Callback):
    """Measure the indices of a model while Lightning trains it, and log them.

    Args:
        batches: Batches as for ``iterconv.measure``: a list or a DataLoader, which is read at each measurement.
        find: A function from the LightningModule to the model that is measured, such as ``lambda m: m.net``; by
            default the module itself.
        every: The number of epochs from one measurement to the next.
        options: Options of ``iterconv.measure``.

    Raises:
        InputError: If batches can be read only once, or ``every`` is not a number of epochs.
    """

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, on the first process only, and hand the means to the trainer's loggers."""
        if trainer.is_global_zero:
            found = self._watch.measure(pl_module, trainer.current_epoch + 1)
            for logger in trainer.loggers if found else ():
                logger.log_metrics(found, step=trainer.global_step)


class CoupleCallback(_Callback):
    """Couple the gradients of groups of modules while Lightning trains them.

    Source: Lippl et al., Sec. 4.1.

    Args:
        groups: The groups as for ``iterconv.couple``, or a function that makes them from the LightningModule.
        strength: The strength in [0, 1], or a function of the epoch (from 0), which makes it a schedule.
        kernel: The kernel as for ``iterconv.couple``.
    """

    def __init__(self, groups: Any, strength: Schedule, *, kernel: Any = "uniform") -> None:
        self._dial = Dial(groups, strength, kernel)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Couple the trainer's optimizers."""
        self._dial.start(pl_module, trainer.optimizers, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Turn the dial."""
        strength = self._dial.turn(trainer.current_epoch)
        for logger in trainer.loggers:
            logger.log_metrics({"iterconv/coupling": strength}, step=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Uncouple the optimizers."""
        self._dial.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Uncouple the optimizers."""
        self._dial.stop()
