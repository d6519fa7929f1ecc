"""The two passes of a training step as CUDA graphs: a GPU is told once what to do, and does it again at each step.

A step of the paper's networks consists of more than a thousand kernels, each of which takes a GPU some microseconds;
to start them one after another takes longer than to compute them.
"""

import copy
import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Recorded(nn.Module):
    """A network on a GPU that computes what it would compute anyway, by replaying graphs of its passes.

    The graphs hold for batches of one shape, the first that comes twice in a row; the last batch of an epoch, which may
    be smaller, goes through the network as it is. Another shape that comes twice in a row replaces the first.

    Args:
        network: The network, in training only. What was recorded is forgotten at the beginning of an epoch, by
            ``train()``, if weights or buffers have moved in memory.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._before: list[torch.Size] = []
        self._shapes: list[torch.Size] = []
        self._places: list[int] = []
        self._replay: Any = None

    def train(self, mode: bool = True) -> "Recorded":
        """Begin an epoch."""
        if self._places != _places(self.network):
            self._shapes, self._replay = [], None
        return super().train(mode)

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the outputs, whose memory the next step uses again."""
        shapes = [batch.shape for batch in inputs]
        if shapes == self._before and shapes != self._shapes:
            self._replay = None
            gc.collect()  # frees the memory of an earlier recording, which refers to itself
            self._replay, self._shapes, self._places = _record(self.network, inputs), shapes, _places(self.network)
        self._before = shapes
        if shapes == self._shapes:
            return self._replay(*inputs)
        return self.network(*inputs)


def _places(network: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def _record(network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """Record a network's passes, and leave the network as it was."""
    buffers = list(network.buffers())
    kept = [buffer.clone() for buffer in buffers]
    twin = copy.copy(network)  # of the same weights; its forward becomes the replay
    kind = inputs[0].device.type
    # Only the forward pass is cast, as in a step that is not recorded; a weight that was cast before would be missing.
    state = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    twin.forward = torch.autocast(kind, *state, cache_enabled=False)(network.forward)
    with torch.autocast(kind, enabled=False):
        torch.cuda.make_graphed_callables(twin, tuple(batch.clone() for batch in inputs))
    with torch.no_grad():
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)  # recording warms up with real steps, which move statistics
    return twin.forward
