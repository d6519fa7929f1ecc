"""The paper's claims about variants of coupling and of the initial batch norm. Source: Lippl et al., Sec. D."""

from collections.abc import Iterator

from iterconv.claims.claim import claim
from iterconv.claims.compare import differences, select, settings_of
from iterconv.claims.findings import Finding, alike_or_worse, between
from iterconv.studies.tables import Tables


@claim(13, "D.1", "An initial norm scale of 0.1 helps at 0.9 and at no other strength.")
def small_norm_scale(tables: Tables) -> Iterator[Finding]:
    plain = select(tables.runs, residual="ordinary")
    small = select(tables.runs, residual="ordinary", norm_scale=0.1)
    for name, own in settings_of(small):
        for init, strength in sorted(set(zip(own["init"], own["coupling"], strict=True)), key=lambda c: (c[1], c[0])):
            condition = own[(own["init"] == init) & (own["coupling"] == strength)]
            change = differences(condition, plain, "test_error", ["norm_scale"])
            if strength == 0.9:
                yield between(f"{name}: norm scale 0.1 lowers the error at 0.9, to less by", -change, low=0)
            else:
                level = float(select(plain, init=init, coupling=strength)["test_error"].mean())
                yield alike_or_worse(f"{name}: at {strength:g} ({init} start) it does not", change, level)


@claim(14, "D.2", "The triangular kernel beats the uniform one at the same strength; neither beats the ordinary net.")
def triangular_kernel(tables: Tables) -> Iterator[Finding]:
    yield from _variant_beats(tables, "the triangular kernel", {"kernel": "triangular"}, ["kernel"])


@claim(15, "D.3", "Late coupling beats coupling from block 0, and not the ordinary net.")
def late_coupling(tables: Tables) -> Iterator[Finding]:
    later = tuple(sorted(set(tables.runs["first_coupled"]) - {0})) if len(tables.runs) else ()
    yield from _variant_beats(tables, "late coupling", {"first_coupled": later}, ["first_coupled"])


def _variant_beats(tables: Tables, what: str, values: dict[str, object], field: list[str]) -> Iterator[Finding]:
    """A variant has a lower error than the standard at the same strength, and neither than the ordinary net."""
    plain = select(tables.runs, residual="ordinary", init="recurrent")
    for name, own in settings_of(select(tables.runs, residual="ordinary", init="recurrent", **values)):
        own = own[own["coupling"] > 0]
        lower = differences(plain, own, "test_error", field)
        yield between(f"{name}: {what} has a lower error than the standard, by", lower, low=0)
        uncoupled = select(tables.runs, residual="ordinary", init="independent", coupling=0.0)
        against = differences(own, uncoupled, "test_error", ["coupling", "init", *field])
        level = float(uncoupled["test_error"].mean())
        yield alike_or_worse(f"{name}: {what} does not beat the ordinary net", against, level)
