"""The places where runs can be trained, as users name them."""

import os
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from iterconv.errors import OptionError, check_choice, check_count, check_range
from iterconv.options import Place

UNITS = {
    **{"": 1, "B": 1},
    **{f"{letter}{end}": 1000**power for power, letter in enumerate("KMGT", 1) for end in ("", "B")},
    **{f"{letter}I{end}": 1024**power for power, letter in enumerate("KMGT", 1) for end in ("", "B")},
}
"""Bytes of the units of memory."""


def cores() -> int:
    """Return the number of cores that this process may use, which may be some of the machine's only."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_stack(stack: int) -> None:
    """Raise ``InputError`` for a size of stacks that is out of range."""
    check_range("stack", check_count("stack", stack), "[1, 64]", "1 trains each run alone")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The place where runs are trained, and what each of them may use."""

    on: Place = "here"
    """The place: here, in processes of this machine; ray, a Ray cluster; or slurm, a SLURM cluster. All machines have
    to see the folder --out. See docs/clusters.md."""
    workers: int | None = None
    """The number of runs side by side, with one thread each; by default the number of the machine's cores, and on a
    cluster as many as there is room for."""
    address: str | None = None
    """The address of the Ray cluster, as HOST:PORT; by default the one that this machine belongs to."""
    cpus_per_run: float = 1
    """On a cluster: the number of processors that each run reserves."""
    gpus_per_run: float = 0
    """On a cluster: the number of GPUs that each run reserves; on Ray, a fraction lets several runs share one."""
    memory: str | None = None
    """On a cluster: the memory that each run reserves, as 4GB."""
    stack: int = 1
    """Train up to so many runs side by side as one network, which is faster for runs of one ordinary stage and at most
    8 channels that differ only in seed, coupling, kernel, first_coupled and init; others are trained alone. Runs in
    stacks have names of their own. See docs/training.md."""
    fail_fast: bool = False
    """Stop all runs once one has failed; by default the others go on."""
    detach: bool = False
    """On SLURM: leave queued and running jobs alone when this command is interrupted; by default they are stopped."""

    @property
    def parallel(self) -> int:
        """The number of runs side by side, for estimates of time."""
        return self.workers or cores()

    def check(self) -> None:
        """Raise ``InputError`` for a value that is out of range or does not fit the place; opens nothing."""
        check_choice("on", self.on, Place)
        if self.workers is not None:
            check_count("workers", self.workers, why="is too few")
        check_stack(self.stack)
        check_range("cpus_per_run", self.cpus_per_run, "(0, 4096]", "1 is usual")
        check_range("gpus_per_run", self.gpus_per_run, "[0, 4096]", "0 trains on processors")
        _bytes_of(self.memory)
        default = EngineOptions()
        for name in {"here": _CLUSTER, "ray": ("detach",), "slurm": ("address",)}[self.on]:
            if getattr(self, name) != getattr(default, name):
                raise OptionError(name, getattr(self, name), f"is not for --on {self.on}; leave it out")

    def open(self) -> Any:
        """Return the engine.

        Raises:
            InputError: If an option does not fit, the library of the place is not installed, or no cluster answers.
        """
        self.check()
        # Late, as each place needs a library of its own.
        kind = getattr(import_module(f"iterconv.studies.executors.{self.on}"), f"{self.on.capitalize()}Engine")
        if self.on == "here":
            return kind(self.parallel)
        own = {"address": self.address or "auto"} if self.on == "ray" else {}
        uses = {"cpus": self.cpus_per_run, "gpus": self.gpus_per_run, "memory": _bytes_of(self.memory)}
        return kind(**own, **uses, max_parallel=self.workers)


_CLUSTER = ("address", "cpus_per_run", "gpus_per_run", "memory", "detach")


def _bytes_of(memory: str | None) -> int | None:
    if memory is None:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?I?B?)", memory.strip(), re.IGNORECASE)
    unit = UNITS.get(found[2].upper()) if found else None
    if not found or unit is None or not float(found[1]):
        raise OptionError("memory", memory, "is not an amount of memory; use a number and a unit, as 4GB or 512MiB")
    return round(float(found[1]) * unit)
