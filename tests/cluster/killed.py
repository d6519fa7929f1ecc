"""A command in a process that has everything imported, so that kills at random moments meet its work.

Python's forkserver imports this module once, and forks a process for each start of a command.
"""

import os
import sys
from pathlib import Path

import lightning_fabric  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.backends.backend_svg  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch._dynamo  # noqa: F401

import iterconv.cli.models
import iterconv.cli.runs
import iterconv.cli.studies  # noqa: F401
import iterconv.figures.one_model  # noqa: F401
from iterconv.cli.main import main
from iterconv.training import loop


def run(words: list[str], log: Path) -> None:
    """Run a command; its output is added to a file. A run's state is saved so often that most kills come after it."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    loop.SAVE_EVERY, loop.SAVE_AFTER_EPOCH = 0.02, 0.0
    sys.exit(main(words))
