"""The processes that train one network together, each on a device of its own and on its share of every batch.

Every process prepares each batch whole, so that data order and augmentation are those of a single process. Its share
of the images goes through the network, and the outputs for all images come back. So the loss, and whatever follows
from it, is that of the whole batch in every process.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from iterconv.errors import require
from iterconv.models.shared_norm import share_batch_norms
from iterconv.options import TrainingPrecision
from iterconv.paths.contract import StagedModel


def default_device() -> str:
    """Return the accelerator that is there, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Team:
    """This process among those that train one network together; by default it is alone.

    A larger team needs torch's default process group, and the environment variable ``LOCAL_RANK``.
    """

    rank: int = 0
    """The number of this process, from 0; the first one writes the files."""
    size: int = 1
    """The number of processes."""

    def fabric(self, device: torch.device, precision: TrainingPrecision = "float32") -> Any:
        """Make the Fabric of this process.

        Args:
            device: The device of this process.
            precision: The numbers in which the network multiplies in training.

        Returns:
            The Fabric, launched.

        Raises:
            InputError: If Fabric is not installed.
        """
        lightning = require("lightning_fabric", "training")
        # A run knows its processes, whatever cluster it is started on; Fabric would look for that cluster's others.
        own = lightning.plugins.environments.LightningEnvironment()
        # In every process of a study, Fabric would announce a precision that it is given by name, and on a GPU give
        # advice on matrix products.
        logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
        plugins = lightning.plugins.precision
        numbers = plugins.Precision() if precision == "float32" else plugins.MixedPrecision("bf16-mixed", device.type)
        options = {"accelerator": device.type, "plugins": [own, numbers]}
        if self.size == 1:
            return lightning.Fabric(devices=[device.index or 0] if device.type == "cuda" else 1, **options)
        fabric = lightning.Fabric(devices=self.size, strategy="ddp", **options)
        fabric.launch()
        return fabric

    def share(self, network: StagedModel) -> nn.Module:
        """Return a module that computes what the network does with a batch, by all processes together.

        Args:
            network: The network, equal in all processes; its batch norms are changed in place.

        Returns:
            The network itself if this process is alone.
        """
        if self.size == 1:
            return network
        share_batch_norms(network)
        return _Shared(network, self)


ALONE = Team()
"""A process that trains alone."""


class _Shared(nn.Module):
    """A network through which each process sends its share of a batch, with the outputs for the whole batch."""

    def __init__(self, network: StagedModel, team: Team) -> None:
        super().__init__()
        self.network, self.team = network, team

    def forward(self, inputs: Tensor) -> Tensor:
        """From a whole batch to the outputs for all of it."""
        shares, rank = inputs.tensor_split(self.team.size), self.team.rank
        before, after = (sum(map(len, others)) for others in (shares[:rank], shares[rank + 1 :]))
        outputs = self.network(shares[rank])
        # The sum of outputs between zeros puts them one below the other, also where shares are of different sizes.
        return _Sum.apply(F.pad(outputs, (0, 0, before, after)), self.team.size)


class _Sum(torch.autograd.Function):
    """The sum over all processes, of which each makes the same loss."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, size: int) -> Tensor:
        ctx.size = size
        distributed.all_reduce(share)
        ctx.mark_dirty(share)
        return share

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.size * gradients[0], None  # of which the mean over processes is taken later, with all gradients
