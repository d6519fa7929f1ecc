"""The benchmark: ``python benchmarks [NAME ...] [--json] [--quick]``, or ``make bench NAMES="..."``.

Every row compares two ways to do the same work, timed alternately in one run; README.md beside this file says how to
read the table.
"""

import argparse
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread a process, as in the package's own studies

import torch  # noqa: E402
from clutter import digitclutter  # noqa: E402
from grid import grid  # noqa: E402
from measuring import foreign, in_bf16, indices, memory, trunk  # noqa: E402
from ratios import Row, line  # noqa: E402
from settling import memory as settle_memory  # noqa: E402
from settling import settle  # noqa: E402
from stacks import stacks  # noqa: E402
from start import start  # noqa: E402
from steps import constraint, coupling  # noqa: E402
from training import training  # noqa: E402

import iterconv  # noqa: E402

BENCHMARKS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "indices": indices,
    "indices-foreign": foreign,
    "indices-trunk": trunk,
    "indices-bf16": in_bf16,
    "indices-memory": memory,
    "settle": settle,
    "settle-memory": settle_memory,
    "coupling": coupling,
    "constraint": constraint,
    "train": training,
    "stacks": stacks,
    "digitclutter": digitclutter,
    "grid": grid,
    "start": start,
}


def machine() -> str:
    """Name the processor and the versions."""
    names = []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, iterconv {iterconv.__version__}"
    )


def main() -> int:
    """Run the benchmarks that are named, and print a row for each as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python benchmarks", description="Ratios of iterconv's speed.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it runs")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no benchmark; use {', '.join(BENCHMARKS)}")
    warnings.filterwarnings("ignore")
    if not options.json:
        print(machine())
        print("\n| name | ratio | target | holds | ours (s) | theirs (s) | spread | n | note |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.names or BENCHMARKS:
        for row in BENCHMARKS[name](options.quick):
            print(json.dumps({**asdict(row), "holds": row.holds, "machine": machine()}) if options.json else line(row))
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
