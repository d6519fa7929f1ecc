"""Interruptions: Ctrl-C, SIGTERM and a lost terminal become an event, so that state can be saved first."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C, SIGTERM and a lost terminal into an event, so that state can be saved first.

    A second signal acts at once. Signals that the process was told to ignore, as by ``nohup``, stay ignored.

    Yields:
        The event, which the first signal sets.
    """
    stop = threading.Event()
    # Python lets only the main thread handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def request(number: int, frame: object) -> None:
        stop.set()
        # The former handlers come back at once, so that a second signal ends the process.
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
