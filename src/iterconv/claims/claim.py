"""Claims: statements, most of them the paper's, with the functions that test them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from iterconv.claims.findings import Finding
from iterconv.studies.tables import Tables

Find = Callable[[Tables], Iterator[Finding]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper or of our own, and the function that tests it."""

    number: int | str
    """The claim's number, which stays the same whatever other claims there are; our own begin with a letter."""
    section: str
    """The paper's section; empty for our own."""
    statement: str
    find: Find
    """Yields a finding for each part of the statement and each setting; none where no run is about it."""
    everywhere: bool
    """True if it has to hold in every setting that is tested, not just in some and against none."""


def claim(number: int | str, section: str, statement: str, *, everywhere: bool = False) -> Callable[[Find], Claim]:
    """Make a claim of the function that tests it.

    Args:
        number: The claim's number.
        section: The paper's section; empty for a claim of our own.
        statement: The claim in words.
        everywhere: True if it has to hold in every setting that is tested.

    Returns:
        A decorator.
    """

    def make(find: Find) -> Claim:
        return Claim(number=number, section=section, statement=statement, find=find, everywhere=everywhere)

    return make
