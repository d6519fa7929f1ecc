"""A stack: runs whose networks are trained side by side as one, each with a folder of its own.

While they are trained, their common state is a single file in a folder of the stack's own, so that a kill at any moment
leaves states of the same step. Once the runs are finished, that folder is gone.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from iterconv.errors import InputError
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.loop import Stop, train_together
from iterconv.training.network import check_network
from iterconv.training.run import conclude, load_data, on_threads
from iterconv.training.trainee import Trainee, selection_split

OnRunEpoch = Callable[[RunConfig, dict[str, float]], None]


def complete_stack(
    folders: Sequence[RunFolder],
    path: Path,
    *,
    device: str | None = None,
    on_epoch: OnRunEpoch | None = None,
    stop: Stop | None = None,
) -> None:
    """Bring the runs of a stack to their end: train what is missing in lockstep, then measure one after another.

    A run whose loss becomes NaN fails alone; the others are finished all the same.

    Args:
        folders: The folders of the runs, whose networks have equal shapes, data, schedules and precisions.
        path: The folder of the stack's own state.
        device: A torch device; the accelerator that is there by default.
        on_epoch: Receives a run and each new row of its history.
        stop: Asked after each training step and each measured batch.

    Raises:
        InputError: If a run has failed, the options don't fit the data or the machine, or a file can't be read or
            written.
        KeyboardInterrupt: If it was asked to stop; the state is saved by then.
    """
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(folder.claim())
        held.enter_context(on_threads(folders[0].config.threads))
        left = [folder for folder in folders if not folder.finished]
        state = RunFolder(path, folders[0].config)
        try:
            problems = _finish(left, state, device, on_epoch, stop)
        except Exception:
            if not (path / "checkpoint.pt").exists():
                for folder in left:
                    folder.give_up()
            raise
        shutil.rmtree(path, ignore_errors=True)
        if problems:
            raise InputError("; ".join(problems))


def _finish(
    left: Sequence[RunFolder], state: RunFolder, device: str | None, on_epoch: OnRunEpoch | None, stop: Stop | None
) -> list[str]:
    """Train and measure the runs that are left; return why some have failed."""
    if not left:
        return []
    started, dataset = time.monotonic(), load_data(left[0].config, device)
    for folder in left:
        check_network(folder.config, dataset)
        selection_split(folder.config, dataset)
    runs = []
    for folder in left:
        folder.write_json("config.json", folder.config.to_dict())
        tell = partial(on_epoch, folder.config) if on_epoch else None
        runs.append(Trainee(folder.config, folder, dataset, tell))
    train_together(runs, state, stop)
    for run in runs:
        if run.problem is None:
            conclude(run.folder, run.network, dataset, stop, started, stack=len(runs))
        else:
            run.folder.give_up()
    return [f"{run.config.name}: {run.problem}" for run in runs if run.problem]
