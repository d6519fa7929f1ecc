"""Growth rates: how fast a small difference between two states grows or dies out when a block is applied again.

The block's Jacobian J at a state is never formed: products J v come from forward-mode differentiation.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from iterconv.errors import InputError, describe_error
from iterconv.spectral.iteration import random_start, unit

PARALLEL = 1e-4
"""The squared sine below which two successive vectors of the power iteration count as parallel."""


def derivative(function: Callable[[Tensor], Tensor], z: Tensor, v: Tensor) -> Tensor:
    """Compute the product of a function's Jacobian at ``z`` with ``v``.

    Args:
        function: A function of one tensor.
        z: The tensor at which it is differentiated.
        v: The direction, of the shape of ``z``.

    Returns:
        The derivative in this direction, of the shape of the function's result.

    Raises:
        InputError: If some operation has no derivative in forward mode.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel  # late, as its import is slow

    try:
        # Fused attention has no derivative in forward mode, plain attention has.
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            made = function(forward_ad.make_dual(z, v))
            tangent = forward_ad.unpack_dual(made).tangent
    except (RuntimeError, NotImplementedError) as problem:
        if "memory" in str(problem):
            raise
        told = describe_error(problem)
        raise InputError(f"growth rates need derivatives, which the blocks lack ({told}); pass growth=False") from None
    return torch.zeros_like(z) if tangent is None else tangent


class Growth:
    """The growth of a small difference along the states of one batch, each of whose examples is a system of its own.

    Args:
        function: The block or blocks that are applied again and again.
        z: The first state, of shape (examples, ...).
        iterations: The number of steps of the power iteration at each state that is looked at.
        keep: A function that sets what is no part of the state, such as padding, to 0 in a tensor like ``z``.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        z: Tensor,
        iterations: int,
        keep: Callable[[Tensor], Tensor] = lambda v: v,
    ) -> None:
        self._function, self._iterations, self._keep = function, iterations, keep
        self._v = self._start = unit(keep(random_start(tuple(z.shape), z)))[0]
        self._logs = torch.zeros(len(z), dtype=torch.promote_types(z.dtype, torch.float32), device=z.device)
        self._counts = torch.zeros_like(self._logs)

    def advance(self, z: Tensor) -> None:
        """Carry the difference over one application of the blocks to the state ``z``."""
        self._v, norms = self._step(z, self._v)
        finite = torch.isfinite(norms)
        self._logs += torch.where(finite, norms.to(self._logs).log(), 0)
        self._counts += finite

    @property
    def exponent(self) -> Float[Tensor, " examples"]:
        """The finite-time Lyapunov exponent over all applications to finite states so far, in nats an application.

        It is the mean of log(|J v| / |v|) along the states, for a random first direction v. A small difference grows
        by exp(exponent) an application. Choice: one direction a run; its component along the fastest one prevails
        after some applications, so that the bias of the mean falls as 1 / steps.

        Source: Benettin et al. 1980 (a tangent vector that is rescaled after each application).
        """
        return self._logs / self._counts.clamp(min=1)

    def local(self, z: Tensor) -> Float[Tensor, " examples"]:
        """Estimate the spectral radius of the Jacobian at one state: the largest modulus of its eigenvalues.

        A power iteration starts from the difference that was carried here. Choice: its last three vectors are fitted
        by w2 = a w1 + b w0, whose roots of x^2 = a x + b are the two largest eigenvalues, so that complex pairs and
        pairs of opposite sign are found too. The ratio of two norms alone would go up and down for ever.

        Source: the power iteration for complex pairs, Wilkinson 1965, ch. 9.
        """
        w = self._v
        for _ in range(self._iterations):
            w, _ = self._step(z, w)
        first = self._derive(z, w)
        return largest_modulus(w, first, self._derive(z, first))

    def _derive(self, z: Tensor, v: Tensor) -> Tensor:
        return self._keep(derivative(self._function, z, v))

    def _step(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        moved, norms = unit(self._derive(z, v))
        # A difference that has died out, as by a block that forgets its input, begins anew.
        dead = (norms == 0).view(-1, *[1] * (z.ndim - 1))
        return torch.where(dead, self._start, moved), norms


def largest_modulus(w0: Tensor, w1: Tensor, w2: Tensor) -> Float[Tensor, " examples"]:
    """Compute the larger modulus of the two eigenvalues that three vectors of a power iteration show.

    Args:
        w0: Vectors of shape (examples, ...).
        w1: The products J w0.
        w2: The products J w1.

    Returns:
        The moduli in double precision on the CPU; 0 where J w0 is 0, NaN where a vector is not finite.
    """
    x, y, z = (w.flatten(1).cpu().double() for w in (w0, w1, w2))
    xx, xy, yy, xz, yz = ((p * q).sum(1) for p, q in ((x, x), (x, y), (y, y), (x, z), (y, z)))
    gram = xx * yy - xy.square()
    # Of parallel vectors, the fit would find a second eigenvalue in the rounding.
    parallel = gram <= PARALLEL * xx * yy
    a = (yz * xx - xz * xy) / gram
    b = (yy * xz - xy * yz) / gram
    under = a.square() + 4 * b
    pair = torch.where(under < 0, (-b).clamp(min=0).sqrt(), (a.abs() + under.clamp(min=0).sqrt()) / 2)
    found = torch.where(parallel, (yy / xx).sqrt(), pair)
    return torch.where(torch.isfinite(xx + yy + z.square().sum(1)), found, torch.nan)


def spans_systems(z: Any) -> bool:
    """Return True if the first dimension of a representation can number examples."""
    return isinstance(z, Tensor) and z.ndim >= 2 and z.is_floating_point()
