"""``load_cellular_automaton``: a network that classifies digits by one block, applied again and again to each pixel.

Source: Randazzo et al., *Self-classifying MNIST digits* (Distill 2020).
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.errors import InputError, check_count, check_range, line_of, require
from iterconv.paths.contract import Stage, StagedModel

CHANNELS, HIDDEN, CLASSES = 20, 80, 10
"""The channels of the state, of which the first is the image and the last are votes; the hidden units; the classes."""
ALIVE = 0.1
"""The grey level above which a pixel takes part."""

Cells = Float[Tensor, "n channels height width"]


class CellBlock(nn.Module):
    """One step: ``z[1:] += fire * mask * f(z)``, where the mask holds the pixels that are not dark.

    Departure: in its training, each pixel took part in a step with probability 1/2; here, all of them go a constant
    share of the way, so that the step is a function of the state.

    Args:
        fire: The step size, above 0.
    """

    def __init__(self, fire: float) -> None:
        super().__init__()
        self.fire = fire
        self.perceive = nn.Conv2d(CHANNELS, HIDDEN, 3, padding=1)
        self.hidden = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.out = nn.Conv2d(HIDDEN, CHANNELS - 1, 1)

    def forward(self, z: Cells) -> Cells:
        """The state after one step; its first channel stays."""
        change = self.out(F.relu(self.hidden(F.relu(self.perceive(z)))))
        return torch.cat([z[:, :1], z[:, 1:] + self.fire * _alive(z) * change], 1)


class _Stem(nn.Module):
    """The first state: the image, and zeros."""

    def forward(self, images: Float[Tensor, "n 1 height width"]) -> Cells:
        return F.pad(images, (0, 0, 0, 0, 0, CHANNELS - 1))


class _Votes(nn.Module):
    """The votes, averaged over the pixels that take part."""

    def forward(self, z: Cells) -> Float[Tensor, "n classes"]:
        alive = _alive(z)
        return (alive * z[:, -CLASSES:]).sum((2, 3)) / alive.sum((2, 3)).clamp(min=1)


def load_cellular_automaton(path: Path, steps: int = 20, fire: float = 0.5) -> StagedModel:
    """Load the automaton that classifies MNIST digits.

    Args:
        path: A .safetensors file with the names ``block.perceive.weight``, ``block.hidden.bias`` and so on. Nothing in
            the file is executed.
        steps: The number of steps of the ordinary pass, at least 1. They share the one block.
        fire: The step size, in (0, 1].

    Returns:
        The network from images (n, 1, height, width) with grey levels in [0, 1] to votes (n, 10), in evaluation mode.

    Raises:
        InputError: If an option is out of range, or the file is missing, damaged or of another network.
    """
    steps, fire = check_count("steps", steps), check_range("fire", fire, "(0, 1]", "it is a step size")
    safetensors = require("safetensors.torch", "opening weights")
    if not path.is_file():
        raise InputError(f"there are no weights at {path}; pass the .safetensors file of the automaton")
    block = CellBlock(fire)
    try:
        tensors = safetensors.load_file(path)
        block.load_state_dict({name.removeprefix("block."): tensor for name, tensor in tensors.items()})
    except Exception as problem:  # the reader raises errors of many kinds on a foreign file
        raise InputError(f"{path} holds no weights of the automaton ({line_of(problem)}); get it again") from None
    return StagedModel(_Stem(), [Stage([block] * steps)], [], _Votes()).eval()


def _alive(z: Cells) -> Float[Tensor, "n 1 height width"]:
    return (z[:, :1] > ALIVE).to(z.dtype)
