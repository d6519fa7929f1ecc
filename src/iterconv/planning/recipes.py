"""Recipes for other tools that cut and repeat the layers of language models."""

from collections.abc import Sequence
from itertools import pairwise

from iterconv.errors import InputError


def passthrough(name: str, layers: int, order: Sequence[int]) -> str:
    """Write an order of layers as a passthrough merge of mergekit.

    Sources: mergekit's documentation, "Passthrough" (``slices`` with ``layer_range``, the end not included); the help
    of llama-quantize (``--prune-layers``).

    Args:
        name: The name or the folder of the original model.
        layers: The number of its layers.
        order: The numbers of the layers that are executed, from 0, in their order.

    Returns:
        The recipe in YAML. If layers are only dropped, its first line is a comment with the option of llama-quantize.

    Raises:
        InputError: If no layer is executed.
    """
    if not order:
        raise InputError("a model without layers is no recipe; keep one block or more")
    starts = [0, *(place for place, (a, b) in enumerate(pairwise(order), 1) if b != a + 1)]
    runs = [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)]
    gone = [str(layer) for layer in range(layers) if layer not in order]
    lines = [f"# llama-quantize --prune-layers {','.join(gone)}"] if gone and list(order) == sorted(set(order)) else []
    lines += ["merge_method: passthrough", "slices:"]
    quoted = "'" + name.replace("'", "''") + "'"
    for run in runs:
        lines += ["- sources:", f"  - model: {quoted}", f"    layer_range: [{run[0]}, {run[-1] + 1}]"]
    return "\n".join(lines) + "\n"
