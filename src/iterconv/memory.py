"""How much memory is free, and what would take too much of it."""

from contextlib import suppress
from pathlib import Path

from iterconv.errors import InputError

SHARE = 0.25
"""Of the free memory, how much one thing may take: while data are loaded, there are up to three copies of them."""


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Raise ``InputError``, before anything is allocated, for what would take more than a quarter of the free memory.

    Args:
        needed: Bytes.
        what: Takes them; the subject of the message.
        remedy: What to do instead.
    """
    free = free_memory()
    if needed > SHARE * free:
        raise InputError(
            f"{what} would take {needed / 2**30:.3g} GiB of memory, more than a quarter of the {free / 2**30:.3g} GiB "
            f"that are free; {remedy}"
        )


def free_memory() -> float:
    """Bytes that can still be allocated: the least of what the system tells and the limits of container and process."""
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
