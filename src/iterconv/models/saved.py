"""``load``: a trained network from the folder of its run, without its data set."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from iterconv.errors import InputError, check_choice, check_range
from iterconv.files import read_json, read_tensors
from iterconv.models.resnet import resnet
from iterconv.options import Residual
from iterconv.paths.contract import StagedModel

_AGAIN = "train it again"


def load(path: str | os.PathLike[str]) -> StagedModel:
    """Load the trained network of a run; nothing in its files is executed.

    Args:
        path: The folder that ``iterconv train`` made, which holds ``config.json`` and ``best.safetensors``. The model
            card there, ``README.md``, tells how the inputs are standardised.

    Returns:
        The network with the weights of the best epoch, on the CPU, in evaluation mode.

    Raises:
        InputError: If the folder is not that of a run, the run is not finished, or a file is damaged.
    """
    folder = Path(path)
    wanted = "pass the folder that `iterconv train` made"
    config = read_json(folder / "config.json", f"{folder} holds no run (there is no config.json in it); {wanted}")
    if "residual" not in config:
        raise InputError(f"{folder} is not a run of `iterconv train`; {wanted}")
    weights = folder / "best.safetensors"
    state = read_tensors(weights, f"there are no weights at {weights}; finish the run with `iterconv train`", _AGAIN)
    try:
        sizes = _sizes(state)
        differing = [name for name, size in sizes.items() if config.get(name, size) not in (size, None)]
        if differing:
            raise KeyError(differing[0])
        check_choice("residual", config["residual"], Residual)
        lipschitz = check_range("lipschitz", config["lipschitz"], "(0, inf)", "the paper has 0.95")
        network = resnet(**sizes, residual=config["residual"], lipschitz=lipschitz)
        network.load_state_dict(state)
    except (InputError, KeyError, IndexError, RuntimeError):
        raise InputError(f"{weights} holds no network as {folder / 'config.json'} describes it; {_AGAIN}") from None
    return network.eval()


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the sizes of a network off its weights."""
    places = [match for name in state if (match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name))]
    return {
        "width": state["stem.weight"].shape[0],
        "blocks": len({match[2] for match in places}),
        "stages": len({match[1] for match in places}),
        "in_channels": state["stem.weight"].shape[1],
        "classes": state["head.linear.weight"].shape[0],
    }
