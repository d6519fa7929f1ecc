"""The memory that is free, and the refusal of requests that would take too much of it."""

from contextlib import suppress
from pathlib import Path

from iterconv.errors import InputError

SHARE = 0.25
"""The share of the free memory that one thing may take: while data are loaded, there are up to three copies of them."""


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Raise ``InputError``, before anything is allocated, for what would take more than a quarter of the free memory.

    Args:
        needed: The number of bytes.
        what: The name of what takes them, as the subject of the message.
        remedy: The advice to the user.
    """
    free = free_memory()
    if needed > SHARE * free:
        raise InputError(
            f"{what} would take {needed / 2**30:.3g} GiB of memory, more than a quarter of the {free / 2**30:.3g} GiB "
            f"that are free; {remedy}"
        )


def free_memory() -> float:
    """Return the bytes that can still be allocated: the least of the system's, the container's and the process's."""
    limits = [float("inf")]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limits.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(ImportError):  # Windows
        from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit

        limits += [float(limit) for limit in getrlimit(RLIMIT_AS)[:1] if limit != RLIM_INFINITY]
    return min(limits)
