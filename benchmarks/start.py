"""The start of the command line and of the package."""

import subprocess
import sys
from collections.abc import Iterator

from ratios import Row, compare, wall

IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def run(*words: str) -> None:
    """Run a command without its output."""
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def start(quick: bool) -> Iterator[Row]:
    """Show help, and import the package after torch."""
    rounds = 3 if quick else 11
    row = compare(
        "start",
        "at most 0.25",
        wall(lambda: run("-m", "iterconv", "--help")),
        wall(lambda: run("-c", "pass")),
        "",
        rounds=rounds,
    )
    note = "seconds of `iterconv --help`, not a ratio; theirs is an empty Python program"
    yield Row(row.name, row.ours_s, row.target, row.ours_s, row.theirs_s, (row.ours_s, row.ours_s), rounds, note)
    row = compare(
        "start-import",
        "at most 0.1",
        wall(lambda: run("-c", "import torch, iterconv")),
        wall(lambda: run("-c", "import torch")),
        "",
        rounds=rounds,
    )
    added = row.ours_s - row.theirs_s
    note = "seconds that `import iterconv` adds to `import torch`, not a ratio"
    yield Row(row.name, added, row.target, row.ours_s, row.theirs_s, (added, added), rounds, note)
