"""The test of a net for prefix sums: longer strings, and more iterations, than it was trained with."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from iterconv.coupling import effective_parameter_count
from iterconv.measuring.measurement import measure
from iterconv.measuring.report import Report
from iterconv.models.prefix import block_at, draw_strings
from iterconv.options import Beyond
from iterconv.paths.contract import StagedModel
from iterconv.tasks import BitStrings
from iterconv.training.loop import Stop
from iterconv.training.prefix import PrefixConfig

READ_OUTS = (1, 2, 4, 8, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400)
"""The iterations after which a net is read out, about evenly spaced in their logarithm."""
ALWAYS = 64
"""The longest strings on which every net is run; longer ones need a string of the next shorter length to be right."""
SETTLED = 1e-3
"""The relative step below which a state counts as settled."""
STILL = 1e-6
"""The relative step below which a state is taken to stay where it is, at every later read-out."""
SEED = 2_000_003
"""The seed of the strings, which are the same for every net."""
_AT_ONCE = 12_800
"""Positions that are run together, so that their state stays in the processor's cache."""


def extrapolate(network: StagedModel, config: PrefixConfig, stop: Stop) -> pd.DataFrame:
    """Read a net out after up to ``config.iterations`` iterations on strings of every length.

    Choice: a string counts only if all bits are right. Strings that are run together are run no further once all of
    them move by less than ``STILL``, a few roundings, or none is finite; the later read-outs repeat the last. Lengths
    above ``ALWAYS`` are not run once no string of the length before was right after any number of iterations; their
    accuracy is written down as 0, with ``run`` False.

    Args:
        network: The trained net.
        config: Its configuration.
        stop: Asked after each length.

    Returns:
        One row a rule for iterations beyond the last block (``beyond``), length and read-out (``iterations``):
        ``accuracy``, the share of right strings; ``bit_accuracy``, that of right bits; ``residual``, the mean relative
        step ||z' - z|| / ||z|| over strings whose state is finite, from z to z' one iteration later, or as many as
        there are blocks if untied blocks are run in a cycle; ``settled``, the share of strings on which it is below
        ``SETTLED``; ``finite``, the share of strings with a finite state; and ``run``.

    Raises:
        KeyboardInterrupt: If it was asked to stop.
    """
    rules = get_args(Beyond)
    if tied(network):
        rules = rules[:1]
    rows: list[dict[str, Any]] = []
    for beyond in rules:
        alive = True
        for length in config.lengths:
            if stop.is_set():
                raise KeyboardInterrupt
            ran = alive or length <= ALWAYS
            own = list(_read_outs(network, config, length, beyond) if ran else _zeros(config))
            alive = any(row["accuracy"] > 0 for row in own)
            rows += [{"beyond": beyond, "length": length, **row, "run": ran} for row in own]
    table = pd.DataFrame(rows)
    if len(rules) == 1:  # equal blocks: both rules are one
        table = pd.concat([table.assign(beyond=beyond) for beyond in get_args(Beyond)], ignore_index=True)
    return table


def tied(network: StagedModel) -> bool:
    """True if all blocks have equal weights."""
    first, *others = (list(block.parameters()) for block in network.stages[0].blocks)
    return all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def _zeros(config: PrefixConfig) -> Iterator[dict[str, float]]:
    for iterations in _shown(config):
        none = dict.fromkeys(("bit_accuracy", "residual", "settled", "finite"), math.nan)
        yield {"iterations": iterations, "accuracy": 0.0, **none}


def _shown(config: PrefixConfig) -> list[int]:
    return [iterations for iterations in READ_OUTS if iterations <= config.iterations]


def _read_outs(network: StagedModel, config: PrefixConfig, length: int, beyond: Beyond) -> Iterator[dict[str, float]]:
    """Average the read-outs of some strings of one length."""
    strings, sums = draw_strings(config.strings, length, torch.Generator().manual_seed(SEED + length))
    size = max(1, _AT_ONCE // length)
    parts = [
        _run(network, inputs, right, config, beyond)
        for inputs, right in zip(strings.split(size), sums.split(size), strict=True)
    ]
    every = {name: torch.cat([part[name] for part in parts], 1).double() for name in parts[0]}
    for number, iterations in enumerate(_shown(config)):
        row = {name: float(values[number].nanmean()) for name, values in every.items()}
        yield {"iterations": iterations, **row}


@torch.no_grad()
def _run(network: StagedModel, inputs: Tensor, sums: Tensor, config: PrefixConfig, beyond: Beyond) -> dict[str, Tensor]:
    """Run strings to the end, or until nothing changes any more; returns values of shape (read-outs, strings)."""
    stage, shown = network.stages[0], _shown(config)
    period = len(stage) if beyond == "cycle" else 1
    kept = {iterations - period for iterations in shown}
    z = start = network.stem(inputs)
    earlier: dict[int, Tensor] = {}
    rows: list[dict[str, Tensor]] = []
    for iteration in range(config.iterations):
        if iteration in kept:
            earlier[iteration] = z
        z = stage.step(block_at(iteration, len(stage), beyond), z, start)
        if iteration + 1 in shown:
            before = earlier.pop(iteration + 1 - period, torch.full_like(z, math.nan))
            rows.append(_describe(before, z, network.head(z), sums))
            if bool((rows[-1]["residual"] < STILL).all()) or not bool(rows[-1]["finite"].any()):
                break
    rows += rows[-1:] * (len(shown) - len(rows))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _describe(before: Tensor, z: Tensor, logits: Tensor, sums: Tensor) -> dict[str, Tensor]:
    """The columns of the test for each string; ``before`` is the state of one step earlier."""
    finite = torch.isfinite(z).flatten(1).all(1) & torch.isfinite(logits).all(1)
    right = ((logits > 0) == (sums > 0)).float() * finite[:, None]
    moved = (z - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    residual = torch.where(finite & torch.isfinite(moved), moved, math.nan)
    return {
        "accuracy": (right > 0).all(1).float(),
        "bit_accuracy": right.mean(1),
        "residual": residual,
        "settled": (residual < SETTLED).float(),
        "finite": finite.float(),
    }


def measure_prefix(network: StagedModel, config: PrefixConfig) -> Report:
    """Measure the indices on whole strings of the trained length."""
    strings = draw_strings(config.strings, config.bits, torch.Generator().manual_seed(SEED))
    return measure(network, [strings], task=BitStrings())


def count_prefix(network: StagedModel) -> dict[str, float]:
    """Count the parameters of a net: raw, tied, effective, and the mean deviation of its blocks."""
    return effective_parameter_count(network, network.coupling_groups())._asdict()
