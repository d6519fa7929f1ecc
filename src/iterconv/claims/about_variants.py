"""The paper's claims about variants of coupling and of the initial batch norm. Source: Lippl et al., Sec. D."""

from collections.abc import Iterator

from iterconv.claims.claim import claim
from iterconv.claims.compare import differences, select
from iterconv.claims.findings import Finding, alike_or_worse, between
from iterconv.studies.tables import Tables


@claim(
    13,
    "D.1",
    "An initial norm scale of 0.1 helps at 0.9 and at no other strength.",
    {"a": "A norm scale of 0.1 helps at 0.9", "b": "It helps at no other strength"},
    studies=("fig8",),
    about={"residual": "ordinary", "norm_scale": (0.1, 1.0)},
)
def small_norm_scale(tables: Tables) -> Iterator[Finding]:
    plain, small = select(tables.runs), select(tables.runs, norm_scale=0.1)
    for strength, init in sorted(set(zip(small["coupling"], small["init"], strict=True))):
        change = differences(
            select(small, norm_scale=0.1, init=init, coupling=strength), plain, "test_error", ["norm_scale"]
        )
        if strength == 0.9:
            yield between("a", "norm scale 0.1 lowers the error at 0.9, by", -change, low=0)
        else:
            level = float(select(plain, init=init, coupling=strength)["test_error"].mean())
            yield alike_or_worse("b", f"it does not lower the error at {strength:g} ({init} start)", change, level)


@claim(
    14,
    "D.2",
    "The triangular kernel beats the uniform one at the same strength; neither beats the ordinary net.",
    {"a": "The triangular kernel beats the uniform one", "b": "It does not beat the ordinary net"},
    studies=("fig8",),
    about={"residual": "ordinary", "kernel": ("triangular", "uniform")},
)
def triangular_kernel(tables: Tables) -> Iterator[Finding]:
    yield from _variant_beats(tables, "the triangular kernel", {"kernel": "triangular"}, ["kernel"])


@claim(
    15,
    "D.3",
    "Late coupling beats coupling from block 0, and not the ordinary net.",
    {"a": "Late coupling beats coupling from block 0", "b": "It does not beat the ordinary net"},
    studies=("fig8",),
    about={"residual": "ordinary", "first_coupled": ...},
)
def late_coupling(tables: Tables) -> Iterator[Finding]:
    later = tuple(sorted(set(tables.runs["first_coupled"]) - {0}))
    yield from _variant_beats(tables, "late coupling", {"first_coupled": later}, ["first_coupled"])


def _variant_beats(tables: Tables, what: str, values: dict[str, object], field: list[str]) -> Iterator[Finding]:
    """A variant has a lower error than the standard at the same strength, and not than the ordinary net."""
    plain, variant = (select(tables.runs, init="recurrent", **changed) for changed in ({}, values))
    variant = variant[variant["coupling"] > 0]
    lower = differences(plain, variant, "test_error", field)
    yield between("a", f"{what} has a lower error than the standard, by", lower, low=0)
    uncoupled = select(tables.runs, init="independent", coupling=0.0)
    against = differences(variant, uncoupled, "test_error", ["coupling", "init", *field])
    level = float(uncoupled["test_error"].mean())
    yield alike_or_worse("b", f"{what} does not beat the ordinary net", against, level)
