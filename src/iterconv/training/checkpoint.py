"""The checkpoint of a run, or of the runs of a stack, which are saved together so that their states always agree."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from iterconv.errors import InputError
from iterconv.training.folder import RunFolder, damaged_checkpoint
from iterconv.training.trainee import Trainee


class Checkpoint:
    """The runs that are saved together in one file, and the time of the last save.

    Args:
        folder: The folder of the file: that of the run, or one of the stack's own.
        runs: The runs.
    """

    def __init__(self, folder: RunFolder, runs: Sequence[Trainee]) -> None:
        self._folder, self._runs, self._saved = folder, runs, time.monotonic()
        self._stacked = folder is not runs[0].folder

    def age(self) -> float:
        """Seconds since the last save, or since the start."""
        return time.monotonic() - self._saved

    def save(self) -> None:
        """Write the state of all runs, and of those that failed the reason; delete the file if none is left."""
        states = {run.config.hash: run.state_dict() for run in self._runs if run.problem is None}
        failed = {run.config.hash: str(run.problem) for run in self._runs if run.problem is not None}
        if not states:
            self._folder.drop_checkpoint()  # nothing can come of these runs
        elif self._stacked:
            self._folder.save_checkpoint({"runs": states, "failed": failed})
        else:
            self._folder.save_checkpoint(*states.values())
        self._saved = time.monotonic()

    def restore(self) -> None:
        """Load the checkpoint, if there is one.

        Raises:
            InputError: If it is damaged or of other runs.
        """
        state = self._folder.load_checkpoint()
        if state is None:
            return
        try:
            if self._stacked:
                self._restore_stack(state["runs"], state["failed"])
            else:
                self._restore(self._runs[0], state)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError):
            raise damaged_checkpoint(self._folder) from None

    def _restore_stack(self, states: dict[str, Any], failed: dict[str, str]) -> None:
        for run in self._runs:
            if run.config.hash in failed:
                run.problem = InputError(failed[run.config.hash])
            else:
                self._restore(run, states[run.config.hash])
        if len({(run.progress.epoch, run.progress.batch) for run in self._runs if run.problem is None}) > 1:
            raise ValueError("runs that are not at the same step")

    def _restore(self, run: Trainee, state: dict[str, Any]) -> None:
        for name in ("network", "optimizer", "coupling"):
            getattr(run, name).load_state_dict(state[name])
        _check_momenta(run.optimizer)
        # Within a stack, a run whose loss became NaN goes on to the end of the epoch like the others.
        run.progress.load_state_dict(state["progress"], run.epochs, run.network, finite=not self._stacked)


def _check_momenta(optimizer: torch.optim.SGD) -> None:
    """Raise ``ValueError`` for momenta of other shapes than the parameters', which torch accepts."""
    for parameter, state in optimizer.state.items():
        momentum = state["momentum_buffer"]
        if momentum is not None and momentum.shape != parameter.shape:
            raise ValueError("momenta of another network")
