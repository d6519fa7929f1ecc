"""iterconv measures how iterative and how convergent a residual network is, and trains networks to be more so.

Everything here is imported on first use, so that the command line answers at once and measuring needs
torch, numpy and pandas only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iterconv import adapters as adapters
    from iterconv import coupling as coupling
    from iterconv import data as data
    from iterconv import errors as errors
    from iterconv import indices as indices
    from iterconv import lipschitz as lipschitz
    from iterconv import metrics as metrics
    from iterconv import models as models
    from iterconv import paths as paths
    from iterconv import reports as reports
    from iterconv import stages as stages
    from iterconv.adapters import adapt as adapt
    from iterconv.coupling import Coupling as Coupling
    from iterconv.coupling import couple as couple
    from iterconv.coupling import couple_axis as couple_axis
    from iterconv.coupling import effective_parameter_count as effective_parameter_count
    from iterconv.errors import InputError as InputError
    from iterconv.lipschitz import constrain as constrain
    from iterconv.lipschitz.audit import audit as audit
    from iterconv.measurement import measure as measure
    from iterconv.planning import Plan as Plan
    from iterconv.planning import plan as plan
    from iterconv.reports import Report as Report
    from iterconv.similarities import similarity as similarity
    from iterconv.stages import Stage as Stage
    from iterconv.stages import StagedModel as StagedModel
    from iterconv.stages import verify as verify

_HOMES = {
    "adapt": "adapters",
    "audit": "lipschitz",
    "Coupling": "coupling",
    "couple": "coupling",
    "couple_axis": "coupling",
    "constrain": "lipschitz",
    "effective_parameter_count": "coupling",
    "InputError": "errors",
    "Report": "reports",
    "measure": "measurement",
    "Plan": "planning",
    "plan": "planning",
    "similarity": "similarities",
    "Stage": "stages",
    "StagedModel": "stages",
    "verify": "stages",
}
_MODULES = (
    "adapters",
    "coupling",
    "data",
    "errors",
    "indices",
    "lipschitz",
    "metrics",
    "models",
    "paths",
    "reports",
    "stages",
)

__version__ = "0.1.0"
__all__ = [*_HOMES, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"iterconv.{name}")
    if name in _HOMES:
        return getattr(import_module(f"iterconv.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'iterconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
