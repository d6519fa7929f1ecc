"""Lipschitz bounds of residual functions: operator norms, and the audit of a network's blocks."""

from iterconv.lipschitz.audit import audit as audit
from iterconv.lipschitz.constraint import Constrained as Constrained
from iterconv.lipschitz.constraint import constrain as constrain
from iterconv.spectral.convolutions import ConvolutionNorms as ConvolutionNorms
from iterconv.spectral.convolutions import operator_norms as operator_norms

__all__ = ["Constrained", "ConvolutionNorms", "audit", "constrain", "operator_norms"]
