"""The untrained network of a run."""

import torch

from iterconv import data, models
from iterconv.errors import OptionError
from iterconv.paths.contract import StagedModel
from iterconv.training.config import RunConfig


def make_network(config: RunConfig, dataset: data.Data) -> StagedModel:
    """Make the untrained network of a run; equal seeds give equal weights.

    Args:
        config: The run.
        dataset: The data that it is trained on, which give channels and classes.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: If it does not fit the images or the machine's memory.
    """
    check_network(config, dataset)
    run = config.resolved()
    assert run.stages is not None and run.init is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return models.resnet(
            run.width,
            run.blocks,
            run.stages,
            dataset.in_channels,
            dataset.classes,
            init=run.init,
            residual=run.residual,
            lipschitz=run.lipschitz,
            norm_scale=run.norm_scale,
        )


def check_network(config: RunConfig, dataset: data.Data) -> None:
    """Refuse a network of more stages than the images can be halved, before anything is made or written.

    Args:
        config: The run.
        dataset: The data that it is trained on.

    Raises:
        InputError: If the last stage would have maps of less than one pixel.
    """
    run = config.resolved()
    assert run.stages is not None
    smallest = min(dataset.image_size)
    if 2 ** (run.stages - 1) > smallest:
        raise OptionError("stages", run.stages, f"halve maps of {smallest} pixels to less than one; use fewer")
