"""The meaning of a model's output: rows of logits, their targets, errors and chance, and rows of a representation.

A new kind of task is a subclass of ``Task`` in a file of its own; ``docs/extending.md`` shows one.
"""

from iterconv.tasks.base import Task as Task
from iterconv.tasks.bit_strings import BitStrings as BitStrings
from iterconv.tasks.classes import Classes as Classes
from iterconv.tasks.embeddings import Embeddings as Embeddings
from iterconv.tasks.label_sets import LabelSets as LabelSets
from iterconv.tasks.pixels import Pixels as Pixels
from iterconv.tasks.sequences import Sequences as Sequences
from iterconv.tasks.tokens import Tokens as Tokens


def task_of(targets: object) -> Task:
    """The task that targets by themselves tell: label sets for 0/1 rows, else classes.

    Args:
        targets: A tensor of targets, or None.

    Returns:
        ``LabelSets()`` for targets of two dimensions, ``Classes()`` for all others.
    """
    return LabelSets() if getattr(targets, "ndim", 1) == 2 else Classes()
