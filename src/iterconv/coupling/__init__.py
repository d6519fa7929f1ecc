"""Soft gradient coupling: a dial between an ordinary network (0) and a weight-tied one (1).

Coupling changes neither the network nor the loss. Just before the optimizer uses the gradients, the
gradients of coupled blocks (or of positions along an axis of one parameter) become mixtures of each other.
"""

from iterconv.coupling.axis import couple_axis as couple_axis
from iterconv.coupling.counting import ParameterCount as ParameterCount
from iterconv.coupling.counting import effective_parameter_count as effective_parameter_count
from iterconv.coupling.handle import Coupling as Coupling
from iterconv.coupling.kernels import KERNELS as KERNELS
from iterconv.coupling.kernels import Kernel as Kernel
from iterconv.coupling.kernels import coupling_matrix as coupling_matrix
from iterconv.coupling.kernels import register as register
from iterconv.coupling.modules import couple as couple

__all__ = [
    "KERNELS",
    "Coupling",
    "Kernel",
    "ParameterCount",
    "couple",
    "couple_axis",
    "coupling_matrix",
    "effective_parameter_count",
    "register",
]
