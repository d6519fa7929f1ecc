"""Networks of equal shape as one: their channels stand side by side, and each convolution has a group for each network.

Weights, norms and running statistics stay in the networks themselves, where each has its own optimizer, coupling and
checkpoint. They are put side by side anew at each step, and gradients find their way back.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.errors import InputError


def join(networks: Sequence[nn.Module]) -> nn.Module:
    """Make one module of networks, which is called with one batch for each and returns the outputs of each.

    Args:
        networks: Networks of one ordinary stage and of equal shape; or a single network, which is returned as it is.

    Returns:
        The module, for training only.

    Raises:
        InputError: If there are several, and they have more than one stage or layers that can't be joined.
    """
    return Joint(networks) if len(networks) > 1 else networks[0]


def apart(outputs: Any) -> Sequence[Tensor]:
    """Return the outputs of each network of what ``join`` made."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


class Joint(nn.Module):
    """Networks side by side; see ``join``."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.body = copy.deepcopy(networks[0])  # for its structure; all its layers are replaced
        if len(self.body.stages) > 1:  # type: ignore[arg-type]  # a transition appends channels at the end of all
            raise InputError(f"networks of {len(self.body.stages)} stages can't be joined; use one stage")  # type: ignore[arg-type]
        layers = [dict(network.named_modules()) for network in networks]
        for name, module in list(self.body.named_modules()):
            if not list(module.children()) and not isinstance(module, nn.ModuleList):
                if type(module) not in _JOINT:
                    raise InputError(f"layers of type {type(module).__name__} can't be joined; train one after another")
                parent, _, last = name.rpartition(".")
                setattr(self.body.get_submodule(parent), last, _JOINT[type(module)](found[name] for found in layers))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of each network for its own batch; the batches are of equal size."""
        outputs: Tensor = self.body(torch.cat(inputs, 1))
        return outputs.chunk(len(inputs), 1)

    def leave(self, position: int) -> None:
        """Go on without one of the networks."""
        for module in self.body.modules():
            if isinstance(module, _Layers):
                del module.layers[position]


class _Layers(nn.Module):
    """Layers of the same place, one of each network."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)

    def side_by_side(self, name: str) -> Tensor:
        """Concatenate the tensors of one name."""
        return torch.cat([getattr(layer, name) for layer in self.layers])


class _Convolutions(_Layers):
    def forward(self, z: Tensor) -> Tensor:
        first = self.layers[0]
        weight, groups = self.side_by_side("weight"), len(self.layers)
        return F.conv2d(z, weight, None, first.stride, first.padding, first.dilation, groups)


class _Norms(_Layers):
    def forward(self, z: Tensor) -> Tensor:
        first, count = self.layers[0], len(self.layers)
        with torch.no_grad():
            mean, variance = self.side_by_side("running_mean"), self.side_by_side("running_var")
        weight, bias = self.side_by_side("weight"), self.side_by_side("bias")
        made = F.batch_norm(z, mean, variance, weight, bias, True, first.momentum, first.eps)
        with torch.no_grad():
            own = [getattr(layer, name) for name in ("running_mean", "running_var") for layer in self.layers]
            torch._foreach_copy_(own, [*mean.chunk(count), *variance.chunk(count)])
            torch._foreach_add_([layer.num_batches_tracked for layer in self.layers], 1)
        return made


class _Linears(_Layers):
    def forward(self, features: Tensor) -> Tensor:
        own = features.chunk(len(self.layers), 1)
        return torch.cat([layer(part) for layer, part in zip(self.layers, own, strict=True)], 1)


_JOINT = {nn.Conv2d: _Convolutions, nn.BatchNorm2d: _Norms, nn.Linear: _Linears}
