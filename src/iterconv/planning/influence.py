"""The conventional numbers of what blocks do: Block Influence, angular distance and relative residual."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import InputError
from iterconv.paths.untouched import untouched
from iterconv.tasks.base import unpadded
from iterconv.tasks.batches import check_inputs, inputs_by_name, inputs_of

NUMBERS = ("influence", "angle", "residual")
"""The columns of `influence` that hold numbers."""


def influence(model: nn.Module, batches: Iterable[Any]) -> pd.DataFrame:
    """Compare what enters each span of blocks with what leaves it, in the ordinary pass.

    Sources: Men et al. 2024, "ShortGPT", eq. 1 (Block Influence); Gromov et al. 2024, "The Unreasonable Ineffectiveness
    of the Deeper Layers", eq. 5 (angular distance over spans of n layers).

    Choice: a representation of shape (n, tokens, channels) counts as one vector for each token that is not padding, as
    in these sources; any other is one vector for each example. The angular distance there is of the last token only.

    Args:
        model: A model as for ``iterconv.measure``; it is left exactly as it was.
        batches: The batches as for ``iterconv.measure``; targets are ignored.

    Returns:
        One row for each stage and span, which is the blocks from ``start`` to before ``end`` (from 0), with means over
        vectors: ``influence``, 1 less the cosine of what enters and what leaves, in [0, 2]; ``angle``, their angle over
        pi, in [0, 1]; ``residual``, the length of their difference over the length of what enters; and ``vectors``,
        the number of vectors. Vectors that are 0 have no direction and don't count.

    Raises:
        InputError: If the model can't be adapted, if there are no batches or if one has NaN.
    """
    staged, batches = as_staged(model, batches)
    sums: dict[tuple[int, int, int], Tensor] = defaultdict(lambda: torch.zeros(len(NUMBERS) + 1, dtype=torch.float64))
    with untouched(staged):
        for position, batch in enumerate(batches):
            inputs = inputs_of(batch, staged)
            check_inputs(inputs, position)
            named = inputs_by_name(inputs, staged)
            with untouched(staged):  # each batch meets the model in the state in which it was given
                for span, found in _spans(staged, inputs, named):
                    sums[span] += found
    if not sums:
        raise InputError("there are no batches to follow blocks on; pass an iterable of (inputs, targets)")
    rows = []
    for (stage, start, end), (*totals, count) in sorted(sums.items()):
        means = [float(total / count) if count else math.nan for total in totals]
        names = {"stage": stage, "start": start, "end": end}
        rows.append({**names, **dict(zip(NUMBERS, means, strict=True)), "vectors": int(count)})
    return pd.DataFrame(rows)


def _spans(model: Any, inputs: Any, named: Any) -> Iterable[tuple[tuple[int, int, int], Tensor]]:
    """Yield for each span of one batch the sums of the three numbers, and the number of vectors."""
    before: list[tuple[int, Tensor, Tensor]] = []  # the number, the vectors and their lengths, at each block's entry
    current = 0
    for stage, block, entering, leaving, _ in paths.block_inputs(model, inputs):
        if stage != current:
            before, current = [], stage
        before.append((block, *_vectors(entering, named)))
        after, length = _vectors(leaving, named)
        for start, vectors, first in before:
            known = (first > 0) & (length > 0)
            cosines = ((vectors * after).sum(1) / (first * length))[known].clamp(-1, 1)
            steps = ((after - vectors).norm(dim=1) / first)[known]
            sums = [(1 - cosines).sum(), cosines.arccos().sum() / math.pi, steps.sum(), known.sum()]
            yield (stage, start, block + 1), torch.stack([total.double().cpu() for total in sums])


def _vectors(z: Tensor, named: Any) -> tuple[Tensor, Tensor]:
    """Return the vectors of a representation, one a row in double precision, and their lengths."""
    if z.ndim == 3:
        kept = unpadded(named, z.shape)
        z = z.flatten(0, 1) if kept is None else z[kept.to(z.device)]
    # An angle between close vectors has half the digits of their cosine.
    vectors = z.flatten(1).double()
    return vectors, vectors.norm(dim=1)


def by_influence(table: pd.DataFrame, full: paths.Route) -> list[paths.Route]:
    """Drop the blocks of least Block Influence, one more in each route. Source: Men et al. 2024, Sec. 3.2.

    Args:
        table: The table that ``influence`` returns.
        full: The ordinary pass.

    Returns:
        The routes that have one block fewer than the ordinary pass, two blocks fewer, down to none.
    """
    single = table[table["end"] == table["start"] + 1].sort_values("influence", kind="stable")
    order = list(zip(single["stage"], single["start"], strict=True))
    gone = [set(order[: count + 1]) for count in range(len(order))]
    return [tuple(_without(stage, path, blocks) for stage, path in enumerate(full)) for blocks in gone]


def by_angle(table: pd.DataFrame, full: paths.Route) -> list[paths.Route]:
    """Drop the span of least angular distance, one for each length. Source: Gromov et al. 2024, Sec. 3.2.

    Args:
        table: The table that ``influence`` returns.
        full: The ordinary pass.

    Returns:
        The routes that have one block fewer than the ordinary pass, two blocks fewer, down to one stage without blocks.
    """
    routes = []
    for _, spans in table.groupby(table["end"] - table["start"]):
        best = spans.sort_values("angle", kind="stable").iloc[0]
        blocks = {(int(best["stage"]), block) for block in range(int(best["start"]), int(best["end"]))}
        routes.append(tuple(_without(stage, path, blocks) for stage, path in enumerate(full)))
    return routes


def _without(stage: int, path: paths.Path, blocks: set[tuple[int, int]]) -> paths.Path:
    return tuple(block for block in path if (stage, block) not in blocks)


BASELINES = {"Block Influence": by_influence, "angular distance": by_angle}
"""The ways in which others choose the blocks that they drop, by the number that they go by."""
