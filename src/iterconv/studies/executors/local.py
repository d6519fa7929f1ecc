"""Where runs are executed: side by side on this machine's cores, one thread each."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from iterconv.errors import InputError
from iterconv.studies.catalogue import Run
from iterconv.studies.toy import ToyRun

RETRIES = 3
"""How often workers that died are replaced before giving up."""

_context = get_context("spawn")
_events: Any = None
_stop: Any = None
_busy = threading.Lock()


@dataclass
class Tally:
    """How a set of runs came out."""

    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons by run name."""


class _StopWorker:
    """Set when the main process asks to stop, or is no longer there."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def is_set(self) -> bool:
        return bool(_stop.is_set()) or os.getppid() != self._parent


def run_all(
    configs: Sequence[Run],
    root: Path,
    *,
    workers: int,
    on_epoch: Callable[[Run], None],
    on_finished: Callable[[Run], None],
    stop: Any,
) -> Tally:
    """Bring runs to their end, several at once; what is finished is not repeated.

    Args:
        configs: The runs; their folders are ``root/<name>``, toy networks have one file each below ``root/toy``.
        root: The folder of all runs.
        workers: Processes, at least 1; each uses one thread.
        on_epoch: Called after each epoch of a run.
        on_finished: Called after each run that succeeded.
        stop: An event; when set, runs save their state and stop.

    Returns:
        How many finished, and why others failed; one failure does not stop the others.

    Raises:
        InputError: If workers die again and again, as when memory runs out.
        KeyboardInterrupt: When asked to stop, once all state is saved.
    """
    tally = Tally()
    waiting = list(configs)
    for _ in range(RETRIES + 1):
        waiting = _round(waiting, root, workers, on_epoch, on_finished, stop, tally)
        if not waiting:
            return tally
    raise InputError(
        f"workers died {RETRIES + 1} times; use fewer --workers or free memory, then run the same command again"
    )


def _round(
    configs: list[Run],
    root: Path,
    workers: int,
    on_epoch: Callable[[Run], None],
    on_finished: Callable[[Run], None],
    stop: Any,
    tally: Tally,
) -> list[Run]:
    """Run what is given; returns what a dying worker left undone."""
    events, stop_workers = _context.SimpleQueue(), _context.Event()
    undone: list[Run] = []
    with ProcessPoolExecutor(
        workers, mp_context=_context, initializer=_start_worker, initargs=(events, stop_workers)
    ) as pool:
        pending: dict[Future[None], Run] = {pool.submit(_work, c, root): c for c in configs}
        by_name = {c.name: c for c in configs}
        while pending:
            wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            while not events.empty():
                on_epoch(by_name[events.get()])
            # Not what `wait` returns: to it, a future that was cancelled while it queued is never done.
            for future in [future for future in pending if future.done()]:
                config = pending.pop(future)
                problem = None if future.cancelled() else future.exception()
                if isinstance(problem, BrokenProcessPool):
                    undone.append(config)
                elif isinstance(problem, InputError):
                    tally.failed[config.name] = str(problem)
                elif isinstance(problem, Exception):  # such as too little memory: the others may still do
                    tally.failed[config.name] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
                elif problem is None and not future.cancelled():
                    tally.finished += 1
                    on_finished(config)
            if stop.is_set():
                stop_workers.set()
                pool.shutdown(wait=False, cancel_futures=True)
    if stop.is_set():
        raise KeyboardInterrupt
    return undone


def _start_worker(events: Any, stop: Any) -> None:
    global _events, _stop
    _events, _stop = events, stop
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one decides
    import torch

    torch.set_num_threads(1)


def _work(config: Run, root: Path) -> None:
    from iterconv.training.run import complete

    stop = _StopWorker()
    if stop.is_set():
        raise KeyboardInterrupt
    with _busy:
        if isinstance(config, ToyRun):
            return config.complete(root)
        complete(config, root / config.name, on_epoch=lambda row: _events.put(config.name), stop=stop)


def _leave_with_parent(parent: int) -> None:
    """End this process once its parent is gone (killed, say) and the run at work has saved its state."""
    while os.getppid() == parent:
        time.sleep(0.5)
    with _busy:
        os._exit(1)  # the pool's own loop would wait for work for ever
