"""Rows of the benchmark: two ways to do the same work, timed alternately in one run, and the ratio of their medians."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Timed = Callable[[], float]
"""A function that does the work once and returns its time in seconds."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    ratio: float
    """What the target speaks of."""
    target: str
    """The target in words, as "at least 2.4"."""
    ours_s: float
    """The median time of our way in seconds, or what the note says."""
    theirs_s: float
    """The median time of the other way in seconds, or what the note says."""
    spread: tuple[float, float]
    """The smallest and the largest ratio of two neighbouring repetitions."""
    n: int
    """The number of repetitions."""
    note: str
    """What was compared with what."""

    @property
    def holds(self) -> bool:
        """True if the ratio reaches the target."""
        return holds(self.ratio, self.target)


def holds(ratio: float, target: str) -> bool:
    """Compare a ratio with a target in words: "at least X" or "at most X"."""
    kind, limit = target.rsplit(" ", 1)
    return ratio >= float(limit) if kind == "at least" else ratio <= float(limit)


def fastest_precision() -> str:
    """The precision that trains fastest on this processor: bfloat16 only where there are instructions for it."""
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"


def cpu(work: Callable[[], object]) -> Timed:
    """Make a timed function that measures CPU time, which other processes disturb less."""

    def timed() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return timed


def alternate(first: Timed, second: Timed, rounds: int, warm_up: bool = True) -> tuple[list[float], list[float]]:
    """Time two ways A, B, A, B, ...; the first round is left out if it only warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + warm_up):
        for own, timed in zip(times, (first, second), strict=True):
            own.append(timed())
    return times[0][warm_up:], times[1][warm_up:]


def compare(
    name: str,
    target: str,
    ours: Timed,
    theirs: Timed,
    note: str,
    *,
    rounds: int,
    warm_up: bool = True,
    scale: float = 1.0,
    slower: bool = False,
) -> Row:
    """Time two ways alternately and make the row.

    Args:
        name: The row's name.
        target: Its target.
        ours: Our way.
        theirs: The other way.
        note: What was compared with what.
        rounds: The number of repetitions.
        warm_up: True to leave out one repetition before the others.
        scale: A factor of the ratio, where the target speaks of a share of what is possible.
        slower: False for the ratio theirs / ours, how much faster we are; True for ours / theirs, what something costs.
    """
    a, b = alternate(ours, theirs, rounds, warm_up)
    above, below = (a, b) if slower else (b, a)
    ratios = [scale * x / y for x, y in zip(above, below, strict=True)]
    ratio = scale * statistics.median(above) / statistics.median(below)
    medians = statistics.median(a), statistics.median(b)
    return Row(name, ratio, target, *medians, (min(ratios), max(ratios)), rounds, note)


def on_device(work: Callable[[], object], device: str) -> Timed:
    """Make a timed function for a device: CPU time, or on a GPU the time of the clock until the GPU is through."""
    if device == "cpu":
        return cpu(work)

    def timed() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    return timed


def of_process(*words: str) -> Timed:
    """Make a timed function that runs Python in a process of its own, and measures that process's CPU time."""
    # Compiled modules are kept, as they are for users, whatever this machine is set to.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    command = [sys.executable, *words]
    return lambda: cpu_of_children(
        lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    )


def cpu_of_children(work: Callable[[], object]) -> float:
    """Measure the CPU time of the processes that some work starts and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def line(row: Row) -> str:
    """Write a row of the table in Markdown."""
    low, high = row.spread
    cells = [row.name, f"{row.ratio:.3g}", row.target, "yes" if row.holds else "no", f"{row.ours_s:.4g}"]
    cells += [f"{row.theirs_s:.4g}", f"{low:.3g} to {high:.3g}", str(row.n), row.note]
    return f"| {' | '.join(cells)} |"
