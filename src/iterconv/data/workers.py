"""Worker processes: they end with the process that started them, and leave it to decide what follows from a signal."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker


class Parent:
    """The process that started this one, a worker; made in the worker, as by the ``initializer`` of a pool.

    A pool's own loop would wait for work for ever once the main process was killed. As a `Stop`, it asks to stop then.
    """

    def __init__(self) -> None:
        self.busy = threading.Lock()
        """Held while there is state to save: this process ends only once it is free."""
        self._gone = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def is_set(self) -> bool:
        """True if the main process is gone."""
        return self._gone.is_set()

    def _follow(self) -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        self._gone.set()
        with self.busy:
            os._exit(1)


@contextmanager
def signals_held(*names: str) -> Iterator[None]:
    """Hold back signals that may reach all processes, for good in those that start meanwhile.

    The main process decides what follows from a signal, and must not lose workers to it, not even while they import.

    Args:
        names: The names of the signals; those that the system does not have are left out.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    held = {getattr(signal, name) for name in names if hasattr(signal, name)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        # Python's tracker of semaphores starts with the first process, and lets Ctrl-C through again when it does.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
