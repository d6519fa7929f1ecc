"""Path families: the ways in which the order of execution of a stage's blocks may be perturbed.

A *path* is the sequence of blocks that one stage executes; a *route* is a path for every stage, that is, one way
through the whole network. All perturbations of the paper are routes in which a single stage leaves its ordinary path.

Nothing here imports torch, so that the command line can name the families at once.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from iterconv.paths.damping import Damped, damped
from iterconv.registry import Registry

Path = tuple[int, ...]
"""The 0-based numbers of the blocks that a stage executes, in order; some may be `Damped`."""

Route = tuple[Path, ...]
"""A path for every stage of a network."""

Maker = Callable[..., Iterable[tuple[int, Path]]]
"""A function from the number of a stage's blocks to the positions and paths of a family's perturbations."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One perturbation of one stage."""

    family: str
    """The name of its family, as in ``FAMILIES``."""
    position: int
    """The place on the axis of its family; ``Family.axis`` names the quantity that is counted there."""
    path: Path
    """The 0-based blocks that the stage executes."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of perturbations; call it with a number of blocks to get its perturbations of a stage.

    ``iterconv.paths.register`` makes a family of yours known to ``iterconv.measure``.
    """

    name: str
    """The name by which ``measure(families=...)`` and tables know it."""
    make: Maker
    """A function from the number of blocks to pairs of a position and a path."""
    title: str
    """The title of its panel in figures."""
    axis: str
    """The label of the panel's x axis, which names the quantity that a position counts."""

    def __call__(self, num_blocks: int, *args: Any, **options: Any) -> list[Perturbation]:
        """Make the perturbations of a stage.

        Args:
            num_blocks: The number of blocks of the stage.
            args: Further arguments of the maker, such as the number of extra evaluations.
            options: Further keyword arguments of the maker.

        Returns:
            The perturbations, in the order of the maker.
        """
        return [
            Perturbation(family=self.name, position=int(position), path=tuple(map(_plain, path)))
            for position, path in self.make(num_blocks, *args, **options)
        ]


def _plain(block: int) -> int:
    """Return a number of a block as Python's own; makers of users may give NumPy's, which JSON does not take."""
    return block if isinstance(block, Damped) else int(block)


def _family(name: str, title: str, axis: str) -> Callable[[Maker], Family]:
    """Make a family of the function that makes its perturbations."""
    return lambda make: Family(name=name, make=make, title=title, axis=axis)


@_family("early read-out", title="Convergence", axis="evaluated blocks")
def early_readouts(num_blocks: int) -> Iterable[tuple[int, Path]]:
    """Stop after t = 1..T blocks; t = T is the ordinary pass. Source: Lippl et al., Sec. 3.3."""
    return ((t, tuple(range(t))) for t in range(1, num_blocks + 1))


@_family("drop-out", title="Recurrence", axis="dropped block")
def dropouts(num_blocks: int) -> Iterable[tuple[int, Path]]:
    """Leave out block t = 1..T. Source: Lippl et al., Sec. 3.3."""
    full = range(num_blocks)
    return ((t + 1, tuple(block for block in full if block != t)) for t in full)


@_family("extra evaluation", title="Divergence", axis="extra evaluations of the last block")
def extra_evaluations(num_blocks: int, most: int = 16) -> Iterable[tuple[int, Path]]:
    """Evaluate the last block k = 0..``most`` more times; k = 0 is the ordinary pass.

    Source: Lippl et al., Sec. 3.3.
    """
    full, last = tuple(range(num_blocks)), num_blocks - 1
    return ((k, full + (last,) * k) for k in range(most + 1))


@_family("repetition", title="Repetition", axis="block evaluated twice")
def repetitions(num_blocks: int) -> Iterable[tuple[int, Path]]:
    """Evaluate block t = 1..T twice in a row."""
    full = tuple(range(num_blocks))
    return ((t + 1, (*full[: t + 1], t, *full[t + 1 :])) for t in full)


@_family("sub-steps", title="Two half steps", axis="block executed in two half steps")
def sub_steps(num_blocks: int, count: int = 2) -> Iterable[tuple[int, Path]]:
    """Execute block t = 1..T in ``count`` Euler steps of size 1 / ``count``, as a solver with a finer grid would."""
    return _repeat_damped(num_blocks, count, 1 / count)


@_family("scaled repetition", title="Scaled repetition", axis="block evaluated twice, scaled")
def scaled_repetitions(num_blocks: int, count: int = 2) -> Iterable[tuple[int, Path]]:
    """Evaluate block t = 1..T ``count`` times in a row with steps of size 1 / sqrt(``count``).

    If the updates were independent of each other, their sum would be as long as one whole step.
    """
    return _repeat_damped(num_blocks, count, count**-0.5)


def _repeat_damped(num_blocks: int, count: int, size: float) -> Iterable[tuple[int, Path]]:
    full = tuple(range(num_blocks))
    return ((t + 1, (*full[:t], *[damped(t, size)] * count, *full[t + 1 :])) for t in full)


@_family("swap", title="Swap", axis="first of two swapped neighbours")
def swaps(num_blocks: int) -> Iterable[tuple[int, Path]]:
    """Exchange blocks t and t + 1, t = 1..T-1. Source: Veit et al. 2016, Sec. 4.3, exchange blocks in this way."""
    full = tuple(range(num_blocks))
    return ((t + 1, (*full[:t], t + 1, t, *full[t + 2 :])) for t in full[:-1])


@_family("reversal", title="Reversal", axis="last blocks in reverse order")
def reversals(num_blocks: int) -> Iterable[tuple[int, Path]]:
    """Execute the last k = 2..T blocks in reverse order."""
    full = tuple(range(num_blocks))
    return ((k, full[:-k] + full[-k:][::-1]) for k in range(2, num_blocks + 1))


@_family("shuffle", title="Shuffle", axis="number of the shuffle")
def shuffles(num_blocks: int, count: int = 16, seed: int = 0) -> Iterable[tuple[int, Path]]:
    """Execute all blocks in a random order, ``count`` times; the orders follow from the seed and may repeat."""
    # Python's generator gives the same orders everywhere, and this module does without torch and NumPy.
    generator = random.Random(seed)
    return ((k, tuple(generator.sample(range(num_blocks), num_blocks))) for k in range(1, count + 1))


@_family("pair drop-out", title="Drop-out of two", axis="first dropped block")
def pair_dropouts(num_blocks: int) -> Iterable[tuple[int, Path]]:
    """Leave out every two blocks."""
    full = range(num_blocks)
    return ((a + 1, tuple(b for b in full if b not in (a, other))) for a, other in combinations(full, 2))


@_family("run drop-out", title="Drop-out of runs", axis="first dropped block")
def run_dropouts(num_blocks: int) -> Iterable[tuple[int, Path]]:
    """Leave out every sequence of two or more blocks."""
    full, ends = tuple(range(num_blocks)), range(num_blocks + 1)
    return ((a + 1, full[:a] + full[end:]) for a, end in combinations(ends, 2) if end - a > 1)


FAMILIES = Registry(
    Family,
    (
        *(early_readouts, dropouts, extra_evaluations),  # the paper's families
        *(repetitions, sub_steps, scaled_repetitions),
        *(swaps, reversals, shuffles, pair_dropouts, run_dropouts),
    ),
)
"""All families by name."""
register = FAMILIES.register


def family_of(name: str) -> Family:
    """Return a family by name, for figures; a family that is not registered gets a panel under its bare name."""
    return FAMILIES.get(name) or Family(name=name, make=lambda num_blocks: (), title=name, axis="position")
