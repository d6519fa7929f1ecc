"""The paper's claims about the toy inverse problem. Source: Lippl et al., Sec. 3.2."""

from collections.abc import Iterator

import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.findings import Finding, always, between, not_testable
from iterconv.studies.tables import Tables


def _pivot(tables: Tables, family: str, column: str, kind: str) -> pd.DataFrame:
    """Arrange errors of toy networks: one row a seed, one column a position."""
    toy = tables.toy
    own = toy[(toy["point"] < 0) & (toy["perturbation"] == family) & (toy["kind"] == kind)]
    return own.pivot(index="seed", columns="position", values=column)


@claim(
    1,
    "3.2",
    "Early read-outs of residual nets approach the final estimate smoothly; those of nets without skips do not.",
)
def smooth_readouts(tables: Tables) -> Iterator[Finding]:
    """Compare detours: the way of the distance to the final estimate, over the shortest such way, less 1."""
    if tables.toy.empty:
        return
    detours = {}
    for kind in ("residual", "feedforward"):
        distance = _pivot(tables, "early read-out", "distance", kind)
        if distance.empty:
            yield not_testable(f"toy: early read-outs of {kind} nets", "no such network is finished")
            return
        # A way without turns back is as long as the distance between its ends, and a detour of 0.
        moved = distance.diff(axis=1).abs().sum(axis=1)
        detours[kind] = moved / (distance.iloc[:, 0] - distance.iloc[:, -1]) - 1
    yield between("toy: read-outs of residual nets make a detour below 0.5", detours["residual"], high=0.5)
    yield between(
        "toy: those of nets without shortcuts make a larger one",
        detours["feedforward"].sub(detours["residual"]).dropna(),
        low=0,
    )


@claim(2, "3.2", "Trained nets overshoot when the last block is repeated; the iterative algorithm stays.")
def overshoot(tables: Tables) -> Iterator[Finding]:
    if tables.toy.empty:
        return
    for kind in ("residual", "recurrent", "exact"):
        errors = _pivot(tables, "extra evaluation", "rmse", kind)
        added = (errors.iloc[:, -1] - errors.iloc[:, 0]) if len(errors) else pd.Series(dtype=float)
        if kind == "exact":
            yield always("toy: 16 extra evaluations leave the iterative algorithm's error within 0.001", added <= 0.001)
        else:
            yield between(f"toy: 16 extra evaluations raise the error of trained {kind} nets", added, low=0)
