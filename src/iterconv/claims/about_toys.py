"""The paper's claims about the toy inverse problem. Source: Lippl et al., Sec. 3.2."""

from collections.abc import Iterator

import pandas as pd

from iterconv.claims.claim import claim
from iterconv.claims.findings import Finding, always, between
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
    {"a": "Read-outs of residual nets approach smoothly", "b": "Those of nets without skips do not"},
    studies=("fig1",),
    kind="toy",
)
def smooth_readouts(tables: Tables) -> Iterator[Finding]:
    """Compare detours: the way of the distance to the final estimate, over the shortest such way, less 1."""
    detours = {}
    for kind in ("residual", "feedforward"):
        distance = _pivot(tables, "early read-out", "distance", kind)
        if distance.empty:
            return
        # A way without turns back is as long as the distance between its ends, and a detour of 0.
        moved = distance.diff(axis=1).abs().sum(axis=1)
        detours[kind] = moved / (distance.iloc[:, 0] - distance.iloc[:, -1]) - 1
    yield between("a", "read-outs of residual nets make a detour below 0.5", detours["residual"], high=0.5)
    larger = detours["feedforward"].sub(detours["residual"]).dropna()
    yield between("b", "those of nets without shortcuts make a larger one, by", larger, low=0)


@claim(
    2,
    "3.2",
    "Trained nets overshoot when the last block is repeated; the iterative algorithm stays.",
    {"a": "Trained nets overshoot", "b": "The iterative algorithm stays"},
    studies=("fig1",),
    kind="toy",
)
def overshoot(tables: Tables) -> Iterator[Finding]:
    for kind in ("residual", "recurrent", "exact"):
        errors = _pivot(tables, "extra evaluation", "rmse", kind)
        added = (errors.iloc[:, -1] - errors.iloc[:, 0]) if len(errors) else pd.Series(dtype=float)
        if kind == "exact":
            statement = "16 extra evaluations leave the iterative algorithm's error within 0.001"
            yield always("b", statement, added <= 0.001)
        else:
            yield between("a", f"16 extra evaluations raise the error of trained {kind} nets, by", added, low=0)
