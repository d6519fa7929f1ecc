"""Path families: the ways in which the order of execution of a stage's blocks may be perturbed.

A *path* is the sequence of blocks that one stage executes; a *route* is a path for every stage, that is, one way
through the whole network. All perturbations of the paper are routes in which a single stage leaves its ordinary path.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

Path = tuple[int, ...]
"""The 0-based numbers of the blocks that a stage executes, in order."""

Route = tuple[Path, ...]
"""A path for every stage of a network."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One perturbation of one stage."""

    family: str
    """One of ``FAMILIES``."""
    position: int
    """Blocks evaluated, the number of the block that is dropped or repeated or of the first one that is (1-based), the
    number of extra evaluations, how many blocks are reversed, or the number of the shuffle."""
    path: Path
    """The 0-based blocks that the stage executes."""


def early_readouts(num_blocks: int) -> list[Perturbation]:
    """Stop after t = 1..T blocks; t = T is the ordinary pass. Source: Lippl et al., Sec. 3.3."""
    return [Perturbation(family="early read-out", position=t, path=tuple(range(t))) for t in range(1, num_blocks + 1)]


def dropouts(num_blocks: int) -> list[Perturbation]:
    """Leave out block t = 1..T. Source: Lippl et al., Sec. 3.3."""
    full = range(num_blocks)
    return [
        Perturbation(family="drop-out", position=t + 1, path=tuple(block for block in full if block != t)) for t in full
    ]


def extra_evaluations(num_blocks: int, most: int = 16) -> list[Perturbation]:
    """Evaluate the last block k = 0..``most`` more times; k = 0 is the ordinary pass.

    Source: Lippl et al., Sec. 3.3.
    """
    full, last = tuple(range(num_blocks)), num_blocks - 1
    return [Perturbation(family="extra evaluation", position=k, path=full + (last,) * k) for k in range(most + 1)]


def repetitions(num_blocks: int) -> list[Perturbation]:
    """Evaluate block t = 1..T twice in a row."""
    full = tuple(range(num_blocks))
    return [Perturbation(family="repetition", position=t + 1, path=(*full[: t + 1], t, *full[t + 1 :])) for t in full]


def swaps(num_blocks: int) -> list[Perturbation]:
    """Exchange blocks t and t + 1, t = 1..T-1. Source: Veit et al. 2016, Sec. 4.3, exchange blocks in this way."""
    full = tuple(range(num_blocks))
    return [Perturbation(family="swap", position=t + 1, path=(*full[:t], t + 1, t, *full[t + 2 :])) for t in full[:-1]]


def reversals(num_blocks: int) -> list[Perturbation]:
    """Execute the last k = 2..T blocks in reverse order."""
    full = tuple(range(num_blocks))
    return [
        Perturbation(family="reversal", position=k, path=full[:-k] + full[-k:][::-1]) for k in range(2, num_blocks + 1)
    ]


def shuffles(num_blocks: int, count: int = 16, seed: int = 0) -> list[Perturbation]:
    """Execute all blocks in a random order, ``count`` times; the orders follow from the seed and may repeat."""
    generator = random.Random(seed)
    return [
        Perturbation(family="shuffle", position=k, path=tuple(generator.sample(range(num_blocks), num_blocks)))
        for k in range(1, count + 1)
    ]


def pair_dropouts(num_blocks: int) -> list[Perturbation]:
    """Leave out every two blocks; the position is the first one's."""
    full = range(num_blocks)
    return [
        Perturbation(family="pair drop-out", position=a + 1, path=tuple(b for b in full if b not in (a, other)))
        for a, other in combinations(full, 2)
    ]


def run_dropouts(num_blocks: int) -> list[Perturbation]:
    """Leave out every run of two or more blocks; the position is the first one's."""
    full = tuple(range(num_blocks))
    return [
        Perturbation(family="run drop-out", position=a + 1, path=full[:a] + full[end:])
        for a, end in combinations(range(num_blocks + 1), 2)
        if end - a > 1
    ]


FAMILIES: dict[str, Callable[[int], list[Perturbation]]] = {
    "early read-out": early_readouts,
    "drop-out": dropouts,
    "extra evaluation": extra_evaluations,
    "repetition": repetitions,
    "swap": swaps,
    "reversal": reversals,
    "shuffle": shuffles,
    "pair drop-out": pair_dropouts,
    "run drop-out": run_dropouts,
}
"""Perturbations of a stage from its number of blocks; the first three are the paper's."""
