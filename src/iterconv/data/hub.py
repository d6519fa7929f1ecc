"""The Hugging Face hub, which is asked only where it answers."""

import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

_PATIENCE = 3.0


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Spare the user minutes of retries without a network; data that the hub's client has cached are still found."""
    import huggingface_hub.constants as hub

    # Both libraries have read the variable when they were imported, so it is set in both.
    configs: list[Any] = [hub]
    configs += [sys.modules["datasets"].config] if "datasets" in sys.modules else []
    before = [config.HF_HUB_OFFLINE for config in configs]
    offline = any(before) or not _reachable(hub.ENDPOINT)
    for config in configs:
        config.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        for config, value in zip(configs, before, strict=True):
            config.HF_HUB_OFFLINE = value


def _reachable(address: str) -> bool:
    if urllib.request.getproxies():
        return True  # only the proxy knows
    url = urlparse(address)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), _PATIENCE).close()
    except OSError:
        return False
    return True
