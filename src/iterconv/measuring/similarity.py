"""The similarity of the blocks of a stage: of their weights, and of their updates on data."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import InputError
from iterconv.paths.untouched import untouched
from iterconv.tasks.base import without_padding
from iterconv.tasks.batches import check_inputs, inputs_by_name, inputs_of


def similarity(model: nn.Module, batches: Iterable[Any]) -> pd.DataFrame:
    """Compare every two blocks of each stage.

    Args:
        model: A model as for ``iterconv.measure``; it is left exactly as it was.
        batches: The batches as for ``iterconv.measure``; targets are ignored.

    Returns:
        One row for each stage, kind and pair of blocks (from 0), with a cosine in [-1, 1] as its ``value``. For the
        kind ``"weights"`` it is the cosine of all parameters as one vector: 1 for tied blocks, NaN for blocks of
        different structure. For the kind ``"updates"`` it is the mean over the examples of the cosine between the
        changes that the two blocks make to the representation in the ordinary pass.

    Raises:
        InputError: If the model can't be adapted, if there are no batches or if one has NaN.
    """
    staged, batches = as_staged(model, batches)
    sums: list[Any] = [0.0] * len(staged.stages)
    examples = 0
    with untouched(staged):
        for position, batch in enumerate(batches):
            inputs = inputs_of(batch, staged)
            check_inputs(inputs, position)
            updates: list[list[Tensor]] = [[] for _ in staged.stages]
            named = inputs_by_name(inputs, staged)
            with untouched(staged):  # each batch meets the model in the state in which it was given
                for number, _, z, after, _ in paths.block_inputs(staged, inputs):
                    updates[number].append(without_padding(after - z, named).flatten(1).float())
            examples += len(updates[0][0])
            for number, own in enumerate(updates):
                directions = nn.functional.normalize(torch.stack(own), dim=2)
                cosines = torch.einsum("ind,jnd->ij", directions, directions).cpu().double()
                # A stage may have more rows than there are examples (patches, windows); batches count by their
                # examples.
                sums[number] = sums[number] + cosines / len(own[0]) * len(updates[0][0])
    if not examples:
        raise InputError("there are no batches to compare blocks on; pass an iterable of (inputs, targets)")
    rows = []
    for number, stage in enumerate(staged.stages):
        maps = {"weights": _compare_weights(stage.blocks), "updates": sums[number] / examples}
        rows += [
            {"stage": number, "kind": kind, "block": a, "other": b, "value": float(values[a, b])}
            for kind, values in maps.items()
            for a in range(len(values))
            for b in range(len(values))
        ]
    return pd.DataFrame(rows)


def _compare_weights(blocks: Iterable[nn.Module]) -> Float[Tensor, "blocks blocks"]:
    states = [dict(block.named_parameters()) for block in blocks]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    # Double precision on the CPU: cosines of tied blocks should be 1 to many digits.
    vectors = [torch.cat([tensor.detach().cpu().flatten().double() for tensor in state.values()]) for state in states]
    return torch.tensor(
        [
            [
                float(nn.functional.cosine_similarity(a, b, dim=0)) if shapes[i] == shapes[j] else float("nan")
                for j, b in enumerate(vectors)
            ]
            for i, a in enumerate(vectors)
        ]
    )
