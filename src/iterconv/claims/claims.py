"""The paper's claims, each a function from the tables of runs to findings."""

from operator import attrgetter

from iterconv.claims import about_errors, about_indices, about_prefix, about_toys, about_variants
from iterconv.claims.claim import Claim

_FILES = (about_toys, about_indices, about_errors, about_variants)

CLAIMS: tuple[Claim, ...] = tuple(
    sorted(
        (value for file in _FILES for value in vars(file).values() if isinstance(value, Claim)),
        key=attrgetter("number"),
    )
)
"""The claims in the paper's order; a function with the decorator ``claim`` in one of the files is among them."""

OWN_CLAIMS: tuple[Claim, ...] = tuple(value for value in vars(about_prefix).values() if isinstance(value, Claim))
"""Claims of our own, in the order of their numbers."""
