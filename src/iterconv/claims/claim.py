"""Claims: statements of the paper, their parts, and the functions that test them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from iterconv.claims.findings import Finding
from iterconv.studies.tables import Tables

Find = Callable[[Tables], Iterator[Finding]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper, and the function that tests it in one setting."""

    number: int
    """The claim's number, which stays the same whatever other claims there are."""
    section: str
    statement: str
    parts: Mapping[str, str]
    """What is judged on its own, by its letter; a claim that is one statement has one part, without a letter."""
    studies: tuple[str, ...]
    """The studies that train what the claim is about."""
    about: Mapping[str, Any]
    """The runs that it is about, as values of columns for `select`; empty for a claim about toy networks."""
    find: Find
    """Yields the findings in one setting, from the tables of the runs there that the claim is about."""

    def label(self, part: str) -> str:
        """Name a part as in 4a."""
        return f"{self.number}{part}"


def claim(
    number: int,
    section: str,
    statement: str,
    parts: Mapping[str, str] | None = None,
    *,
    studies: tuple[str, ...],
    about: Mapping[str, Any] | None = None,
) -> Callable[[Find], Claim]:
    """Make a claim of the function that tests it.

    Args:
        number: The claim's number.
        section: The paper's section.
        statement: The claim in words.
        parts: Its parts by letter; none for a claim that is one statement.
        studies: The studies that train what the claim is about.
        about: The runs that it is about; none for a claim about toy networks.

    Returns:
        A decorator.
    """
    parts = parts or {"": statement.rstrip(".")}

    def make(find: Find) -> Claim:
        return Claim(
            number=number,
            section=section,
            statement=statement,
            parts=parts,
            studies=studies,
            about=about or {},
            find=find,
        )

    return make
