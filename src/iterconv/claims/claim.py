"""Claims: statements, most of them the paper's, their parts, and the functions that test them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from iterconv.claims.findings import Finding
from iterconv.studies.tables import Tables

Find = Callable[[Tables], Iterator[Finding]]
Kind = Literal["runs", "toy", "prefix_nets"]
"""A kind of networks, by the name of the table that has one row for each of them, or some rows."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper or of our own, and the function that tests it in one setting."""

    number: int | str
    """The claim's number, which stays the same whatever other claims there are; our own begin with a letter."""
    section: str
    """The paper's section; empty for our own."""
    statement: str
    parts: Mapping[str, str]
    """What is judged on its own, by its letter; a claim that is one statement has one part, without a letter."""
    studies: tuple[str, ...]
    """The studies that train what the claim is about."""
    kind: Kind
    """The kind of networks that it is about."""
    about: Mapping[str, Any]
    """The networks of this kind that it is about, as values of columns for `select`; empty for all of them."""
    find: Find
    """Yields the findings in one setting, from the tables of the runs there that the claim is about."""

    def label(self, part: str) -> str:
        """Name a part as in 4a."""
        return f"{self.number}{part}"


def claim(
    number: int | str,
    section: str,
    statement: str,
    parts: Mapping[str, str] | None = None,
    *,
    studies: tuple[str, ...],
    kind: Kind = "runs",
    about: Mapping[str, Any] | None = None,
) -> Callable[[Find], Claim]:
    """Make a claim of the function that tests it.

    Args:
        number: The claim's number.
        section: The paper's section; empty for a claim of our own.
        statement: The claim in words.
        parts: Its parts by letter; none for a claim that is one statement.
        studies: The studies that train what the claim is about.
        kind: The kind of networks that it is about.
        about: The networks of this kind that it is about; none for all of them.

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
            kind=kind,
            about=about or {},
            find=find,
        )

    return make
