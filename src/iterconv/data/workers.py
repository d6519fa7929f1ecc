"""Worker processes that end with the process that started them."""

import os
import threading
from multiprocessing import parent_process


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
