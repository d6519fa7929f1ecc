"""Damped steps: elements of paths that take a part of a block's step only, z + size (B(z) - z).

Nothing here imports torch, as in ``families.py``.
"""

from collections.abc import Iterable
from typing import Any

from iterconv.errors import InputError, check_count, check_range


class Damped(int):
    """A block of a path, of whose step only a part is taken: z + size (B(z) - z). `damped` makes it.

    It serves as the number of its block, but is not equal to it, as its path leads elsewhere.

    Args:
        block: The 0-based number of the block.
        size: The part of the step.
    """

    size: float

    def __new__(cls, block: int, size: float) -> "Damped":
        """Make the number, as numbers can't be changed."""
        made = super().__new__(cls, block)
        made.size = size
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Damped) and _place(self) == _place(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(_place(self))

    # Routes are sorted, so that those with a common beginning stand next to each other.
    def __lt__(self, other: int) -> bool:
        return _place(self) < _place(other)

    def __gt__(self, other: int) -> bool:
        return _place(self) > _place(other)

    def __repr__(self) -> str:
        return f"{int(self)}*{self.size!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Damped, _place(self)


def _place(block: int) -> tuple[int, float]:
    return int(block), block.size if isinstance(block, Damped) else 1.0


def damped(block: int, size: float) -> int:
    """Make an element of a path that takes a part of a block's step: z + size (B(z) - z).

    Args:
        block: The 0-based number of the block.
        size: The part of the step, above 0; 1 is the block itself, bit for bit.

    Returns:
        The element, which `evaluate` executes wherever the beginnings of paths may be shared.

    Raises:
        InputError: If the number or the size is out of range.
    """
    block, size = check_count("block", block, 0), check_range("size", size, "(0, inf)", "1 is the whole step")
    return block if size == 1 else Damped(block, size)


def damp(z: Any, made: Any, size: float) -> Any:
    """Take a part of the step from ``z`` to ``made``: z + size (made - z), or ``made`` itself at a size of 1."""
    if size == 1:
        return made
    if not hasattr(z, "dtype"):
        raise InputError(f"a representation that is a {type(z).__name__} can't be damped; make it one tensor")
    return z + size * (made - z)


def to_plain_paths(paths: Iterable[tuple[int, ...]]) -> list[list[Any]]:
    """Turn paths into lists for files: of numbers, or of text such as "2*0.5" if a block of them is damped."""
    paths = list(paths)
    kind = repr if any(isinstance(block, Damped) for path in paths for block in path) else int
    return [list(map(kind, path)) for path in paths]


def from_plain_path(blocks: Iterable[Any]) -> tuple[int, ...]:
    """Make a path of one list that ``to_plain_paths`` made; raises ``ValueError`` for another one."""
    parts = (str(block).partition("*") for block in blocks)
    return tuple(damped(int(block), float(size or 1)) for block, _, size in parts)


def show_path(path: tuple[int, ...]) -> str:
    """Write a path for readers, who number blocks from 1: "1 2 2*0.5"."""
    return " ".join(f"{block + 1}{repr(block).removeprefix(str(int(block)))}" for block in path)
