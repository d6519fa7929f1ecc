"""The start of the command line and of the package."""

from collections.abc import Iterator

from ratios import Row, compare, of_process


def start(quick: bool) -> Iterator[Row]:
    """Show help, and import the package after torch."""
    rounds = 3 if quick else 11
    program, empty = of_process("-m", "iterconv", "--help"), of_process("-c", "pass")
    row = compare("start", "at most 0.25", program, empty, "", rounds=rounds)
    note = "CPU seconds of `iterconv --help`, not a ratio; theirs is an empty Python program"
    yield Row(row.name, row.ours_s, row.target, row.ours_s, row.theirs_s, (row.ours_s, row.ours_s), rounds, note)
    both, alone = of_process("-c", "import torch, iterconv"), of_process("-c", "import torch")
    row = compare("start-import", "at most 0.1", both, alone, "", rounds=rounds)
    added = row.ours_s - row.theirs_s
    note = "CPU seconds that `import iterconv` adds to `import torch`, not a ratio"
    yield Row(row.name, added, row.target, row.ours_s, row.theirs_s, (added, added), rounds, note)
