"""Libraries of models, which are imported when one of their models is opened."""

import importlib
import sys
from typing import Any

import torch

from iterconv.errors import require

_defined: torch.library.Library | None = None  # kept, since its operators go when it is collected


def library(name: str) -> Any:
    """Import a library of the extra ``zoo``.

    Args:
        name: The name of the module.

    Returns:
        The module.

    Raises:
        InputError: If the library is not installed or can't be imported.
    """
    _mend_torchvision()
    return require(name, "this model", "zoo")


def _mend_torchvision() -> None:
    """Make torchvision importable even if its compiled operators are of another build than torch.

    Only detection models need these operators, but timm and transformers import them with everything else.
    """
    global _defined
    try:
        importlib.import_module("torchvision")
    except ImportError:  # many models do without torchvision
        return
    except RuntimeError as problem:
        if _defined is not None or "operator torchvision::" not in str(problem):
            return
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # the failed import has left these modules half imported
        _defined = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _defined.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        note = "torchvision's compiled operators don't fit this torch; they are left out, as no model here needs them"
        print(f"iterconv: {note}", file=sys.stderr)
