"""Prefix sums modulo two: strings of bits, and one-dimensional residual nets that iterate on them.

The task and the recipe (recall, progressive loss) are those of Bansal et al., *End-to-end algorithm synthesis with
recurrent networks* (2022, arXiv 2202.05826). The nets here are untied, so that gradient coupling has something to tie.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.errors import check_choice, check_count, check_memory
from iterconv.options import Beyond, Init
from iterconv.paths.contract import Stage, StagedModel

Strings = Float[Tensor, "n 1 length"]
State = Float[Tensor, "n channels 1 length"]
Row = Float[Tensor, "n 1 1 length"]
Sums = Int[Tensor, "n length"]

_TINY = 1e-8
"""Added to the mean square of a state before its root is taken, so that a state of zeros stays zero."""


def draw_strings(n: int, length: int, generator: torch.Generator) -> tuple[Strings, Sums]:
    """Draw uniform strings of bits, and their prefix sums modulo two.

    Args:
        n: The number of strings.
        length: Their bits.
        generator: The source of randomness.

    Returns:
        The bits less 1/2 as one channel, and the parity of the bits up to and including each position.
    """
    bits = torch.randint(0, 2, (n, length), generator=generator)
    return (bits.float() - 0.5).unsqueeze(1), bits.cumsum(1) % 2


class PrefixBlock(nn.Module):
    """One iteration: a convolution that takes the input in, and two residual blocks, all of width 3 and without bias.

    Args:
        width: Channels of the state.
        recall: True if the string is handed to the block beside the state.
        norm: True if the state is divided by its root mean square over channels at each position afterwards.
    """

    def __init__(self, width: int, recall: bool, norm: bool) -> None:
        super().__init__()
        self.recall, self.norm = recall, norm
        self.enter = _convolution(width + recall, width)
        self.first, self.second, self.third, self.fourth = (_convolution(width, width) for _ in range(4))

    def forward(self, z: State, bits: Row) -> State:
        """The state after this iteration."""
        z = F.relu(self.enter(torch.cat([z, bits], 1) if self.recall else z))
        z = F.relu(z + self.second(F.relu(self.first(z))))
        z = F.relu(z + self.fourth(F.relu(self.third(z))))
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + _TINY) if self.norm else z


class PrefixStage(Stage):
    """The iterations; the string is the first channel of what enters the stage, so that any path can recall it."""

    def step(self, index: int, z: State, stage_input: State) -> State:
        """Apply block ``index`` to the state ``z``."""
        return self.blocks[index](z, stage_input[:, :1])


class PrefixStem(nn.Module):
    """Makes the first state: the string itself as the first channel, and features of it as the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = _convolution(1, width - 1)

    def forward(self, bits: Strings) -> State:
        """The first state, with channels last in memory, in which order CPUs and GPUs convolve several times faster."""
        row = bits.unsqueeze(2)
        first = torch.cat([row, F.relu(self.features(row))], 1)
        return first.contiguous(memory_format=torch.channels_last)


class PrefixHead(nn.Module):
    """Reads a state out: a logit for each position, positive where the sum is odd."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = _convolution(width, width), _convolution(width, 1)

    def forward(self, z: State) -> Float[Tensor, "n length"]:
        """The logits."""
        return self.outer(F.relu(self.inner(z))).flatten(1)


def prefix_network(
    width: int = 24, blocks: int = 16, *, recall: bool = True, norm: bool = True, init: Init = "independent"
) -> StagedModel:
    """Make a net for prefix sums with one block, of parameters of its own, for each iteration.

    Args:
        width: Channels of the state, at least 2.
        blocks: The iterations of the ordinary pass.
        recall: True if each block is handed the string.
        norm: True if each block divides the state by its root mean square.
        init: ``"recurrent"`` if all blocks are to start with equal weights.

    Returns:
        The net from strings (n, 1, length), of any length, to logits (n, length); its weights come from torch's global
        random state.

    Raises:
        InputError: If a size is too small or the initialisation unknown.
    """
    width, blocks = check_count("width", width, 2), check_count("blocks", blocks)
    check_choice("init", init, Init)
    check_memory(64.0 * blocks * width**2, f"a net with width={width}, blocks={blocks}", "use smaller numbers")
    run = [PrefixBlock(width, recall, norm) for _ in range(blocks)]
    if init == "recurrent":
        for block in run[1:]:
            block.load_state_dict(run[0].state_dict())
    return StagedModel(PrefixStem(width), [PrefixStage(run)], [], PrefixHead(width))


def block_at(iteration: int, blocks: int, beyond: Beyond) -> int:
    """Return the block of an iteration, both from 0.

    Choice: the text does not say how an untied net is to go on after its last block. ``"last"`` repeats that one, as
    the Divergence Index does; ``"cycle"`` begins again with the first one. For a tied net both are the same.

    Args:
        iteration: The iteration.
        blocks: The number of blocks.
        beyond: ``"last"`` or ``"cycle"``.
    """
    return iteration % blocks if beyond == "cycle" else min(iteration, blocks - 1)


def _convolution(channels: int, width: int) -> nn.Conv2d:
    """A convolution along strings, which are maps of one row: along lines, it takes several times as long on a CPU."""
    return nn.Conv2d(channels, width, (1, 3), padding=(0, 1), bias=False)
