"""Lipschitz bounds of residual branches: the audit of a network's blocks, and a constraint on them."""

from iterconv.lipschitz.audit import audit as audit
from iterconv.lipschitz.constraint import Constrained as Constrained
from iterconv.lipschitz.constraint import constrain as constrain
from iterconv.lipschitz.rules import Slope as Slope
from iterconv.lipschitz.rules import affine as affine
from iterconv.lipschitz.rules import identity as identity
from iterconv.lipschitz.rules import register as register

__all__ = ["Constrained", "Slope", "affine", "audit", "constrain", "identity", "register"]
