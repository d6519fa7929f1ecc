"""Indices of iterative convergence: numbers that sum up how a model bears one family of perturbations.

Each is computed from the errors along one family, with any trailing dimensions (bootstrap resamples, seeds), and
compares the area under the perturbed part with the margin between chance and the reference error.

Source: Lippl et al., Sec. 3.3. Choice: the text describes areas under curves in prose; here the area is the
mean over the perturbed positions.
"""

from iterconv.indices.base import Index as Index
from iterconv.indices.base import explanations as explanations
from iterconv.indices.base import undefined_reason as undefined_reason
from iterconv.indices.convergence import CONVERGENCE
from iterconv.indices.convergence import convergence_index as convergence_index
from iterconv.indices.divergence import DIVERGENCE
from iterconv.indices.divergence import divergence_index as divergence_index
from iterconv.indices.recurrence import RECURRENCE
from iterconv.indices.recurrence import recurrence_index as recurrence_index
from iterconv.registry import Registry

INDICES = Registry(Index, (CONVERGENCE, RECURRENCE, DIVERGENCE))
"""All indices by name."""
register = INDICES.register


def families() -> list[str]:
    """The families of perturbations that the indices read, which are always measured."""
    return list(dict.fromkeys(index.family for index in INDICES.values()))
