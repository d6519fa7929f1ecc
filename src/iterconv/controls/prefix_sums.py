"""Prefix sums modulo two: the iterative rule, written into the weights of a net that could have learnt it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterconv.controls.control import Check, Control, check_close, check_equal, check_range_of
from iterconv.measuring import measure
from iterconv.models.prefix import PrefixBlock, PrefixHead, draw_strings, prefix_network
from iterconv.paths.contract import StagedModel
from iterconv.planning import plan
from iterconv.settling import depth, settle
from iterconv.tasks import BitStrings

BLOCKS, EXTRA, STRINGS = 12, 16, 100
LENGTHS, STEPS = (24, 60), 100
"""The lengths of the strings that need more iterations than there are blocks, and the applications beyond these."""
_SUM, _ONE, _BIT, _OTHER = 1, 2, 3, 4
"""The channels of the state: the sum, the number 1, the bit of the string, and 1 less that bit."""


def make_rule() -> StagedModel:
    """Make a tied net whose blocks compute: the sum at a position is the bit there, plus the sum to the left, modulo 2.

    The first sums are 0. So n iterations add up the last n bits at every position. The weights are whole numbers and
    halves, so that nothing is rounded. No convolution has a bias; what is 1 everywhere is the bit and its complement.

    Returns:
        The net, in evaluation mode, without norm.
    """
    with torch.random.fork_rng(devices=[]):
        net = prefix_network(5, BLOCKS, norm=False)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    block, head = net.stages[0].blocks[0], net.head
    assert isinstance(block, PrefixBlock) and isinstance(head, PrefixHead), "of which a net for prefix sums is made"
    with torch.no_grad():
        _write_rule(block)
        # An odd sum gives 1 - 1/2, an even one 0 - 1/2.
        inner, outer = head.inner.weight, head.outer.weight
        inner[_SUM, _SUM, 0, 1] = inner[_ONE, _ONE, 0, 1] = outer[0, _SUM, 0, 1] = 1
        outer[0, _ONE, 0, 1] = -0.5
    for other in list(net.stages[0].blocks):
        other.load_state_dict(block.state_dict())
    return net.eval()


def _write_rule(block: PrefixBlock) -> None:
    """Write the rule into a block whose weights are 0."""
    left, here, string = 0, 1, 5
    enter, first, second = (layer.weight for layer in (block.enter, block.first, block.second))
    enter[_SUM, _SUM, 0, left] = 1
    enter[_BIT, string, 0, here], enter[_OTHER, string, 0, here] = 2, -2  # of bits less 1/2, cut off at 0
    # The sum s becomes s + |s - bit| - s, the number 1 is bit + (1 - bit), and the last two channels are emptied.
    up, down, old, bit, other = range(5)
    for channel, sign in ((up, 1), (down, -1)):
        first[channel, _SUM, 0, here], first[channel, _BIT, 0, here] = sign, -sign
        second[_SUM, channel, 0, here] = 1
    for channel, kept in ((old, _SUM), (bit, _BIT), (other, _OTHER)):
        first[channel, kept, 0, here], second[kept, channel, 0, here] = 1, -1
    second[_ONE, bit, 0, here] = second[_ONE, other, 0, here] = 1


def is_wrong(bits: NDArray[np.bool_], iterations: int) -> NDArray[np.bool_]:
    """Tell which strings the rule has wrong: those with a 1 that is further from the end than it has gone.

    Args:
        bits: The strings, shape (strings, length).
        iterations: The number of iterations.

    Returns:
        True for each string of which a bit of the answer is wrong.
    """
    return np.asarray(bits[:, : max(bits.shape[1] - iterations, 0)].any(1))


def examine_prefix_sums() -> list[Check]:
    """Measure the rule on strings as long as it has blocks, and on longer ones, and compare with what is known.

    Returns:
        The checks.
    """
    net, task = make_rule(), BitStrings()
    (inputs, sums), bits = _draw(BLOCKS)
    wrong = np.stack([is_wrong(bits, count) for count in range(BLOCKS + EXTRA + 1)])
    errors, chance = wrong.mean(1), 1 - 0.5**BLOCKS
    batches = list(zip(inputs.split(STRINGS // 2), sums.split(STRINGS // 2), strict=True))
    found = measure(net, batches, task=task, resamples=0, extra_evaluations=EXTRA).indices
    index = found[found.stage == 0].set_index("index").value
    curve = depth(net, batches, task=task, extra_evaluations=EXTRA)
    frontier = plan(net, batches, task=task, resamples=0, budget=BLOCKS - 3).frontier
    held_out = wrong[:, STRINGS // 2 :].mean(1)[frontier.blocks]
    checks = [
        check_close("convergence", index["convergence"], (chance - errors[1:BLOCKS].mean()) / chance),
        check_close("recurrence", index["recurrence"], 1),
        check_close("divergence", index["divergence"], 0),
        check_close("depth, off by", np.abs(curve.curve.error - errors[1:]).max(), 0),
        check_equal("depth, best", curve.best, BLOCKS),
        check_equal("depth, worse from", curve.overthinking, None),
        check_close("plan, off by", np.abs(frontier.error - held_out).max(), 0),
    ]
    return checks + [check for length in LENGTHS for check in _check_longer(net, length)]


def _check_longer(net: StagedModel, length: int) -> list[Check]:
    """Check that the state comes to rest at the right answer, at the very step at which the rule has gone through."""
    strings, bits = _draw(length)
    settling = settle(net, [strings], task=BitStrings(), steps=STEPS, growth=False)
    known = [is_wrong(bits, BLOCKS + step).mean() for step in settling.steps.step]
    # The first 1 of a string moves the state until it has been carried to the end.
    rest = np.where(bits.any(1), length - bits.argmax(1) - BLOCKS, 0).clip(min=0)
    off = (settling.examples.settling_step.astype(float) - rest).abs().to_numpy()
    return [
        check_equal(f"{length} bits: verdicts", ", ".join(sorted(set(settling.examples.verdict))), "settles"),
        check_equal(f"{length} bits: right at the end", int(settling.examples.right.sum()), STRINGS),
        check_close(f"{length} bits: errors off by", np.abs(settling.steps.error - known).max(), 0),
        check_range_of(f"{length} bits: settling steps off by", off, 0, 0),
        check_range_of(f"{length} bits: share that converges", settling.shares()["converges"], 1, 1),
    ]


def _draw(length: int) -> tuple[tuple[Tensor, Tensor], NDArray[np.bool_]]:
    strings = draw_strings(STRINGS, length, torch.Generator().manual_seed(length))
    return strings, (strings[0][:, 0] > 0).numpy()


CONTROLS: Sequence[Control] = (
    Control(
        name="prefix sums",
        statement="The iterative rule for prefix sums comes to rest at the right answer, however long the string.",
        examine=examine_prefix_sums,
        cost=2,
    ),
)
