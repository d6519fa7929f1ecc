"""What the states of one batch do when a block is applied again and again, and the verdict on each example."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VERDICTS = ("settles", "cycles", "drifts", "diverges", "idle")
"""The verdicts on an example; ``undefined`` where the state has no rows that belong to rows of the output."""

TOLERANCE = 1e-3
"""The relative length of an application's step below which a state is at rest."""
SHRINKING = 0.7
"""The ratio of the mean step in the last quarter of the run to that in the quarter before, at which steps shrink.
Choice: steps of length 1 / k, whose sum just grows without end, have a ratio of 0.71."""
ROUNDING = 8
"""The units of rounding below which a step is no movement."""
STRAIGHT = 0.1
"""The ratio of the net displacement over the second half of the run to the path in it, above which a state drifts."""
RETURN = 0.02
"""The distance, in steps, at which a state has come back to where it was."""
LONGEST_PERIOD = 32
"""The largest period that is looked for."""


class Trajectory:
    """The states of one batch, summed up in memory that does not depend on the number of steps.

    Args:
        before: The rows of the representation that entered the blocks in the ordinary pass.
        steps: The number of applications that will be seen beyond the ordinary pass.
        tolerance: The relative length of a step below which a state is at rest.
    """

    def __init__(self, before: Tensor, steps: int, tolerance: float) -> None:
        self._wide = torch.promote_types(before.dtype, torch.float32)
        self._tolerance = max(tolerance, ROUNDING * torch.finfo(before.dtype).eps)
        self._floor = ROUNDING * torch.finfo(before.dtype).eps
        self._half, self._steps = steps // 2, steps
        self._quarter = self._half + (steps - self._half) // 2
        self._reference = steps - min(LONGEST_PERIOD, steps // 4)
        # Squares of large activations exceed single precision's largest number; Apple's devices have no double one.
        self._double = self._wide if before.device.type == "mps" else torch.float64
        self._z = before.flatten(1).to(self._wide)
        self._norm = self._norms(self._z)
        self._update, self._update_before = torch.zeros_like(self._z), torch.zeros_like(self._z)
        zeros = torch.zeros_like(self._norm)
        self._path, self._third, self._last, self._scale = zeros, zeros, zeros, zeros
        self._moving, self._period = zeros.long(), zeros.long()
        self._always_finite = torch.ones_like(zeros, dtype=torch.bool)

    def see(self, step: int, rows: Tensor) -> None:
        """Take in the rows of the representation after a step, from 0 on."""
        z = rows.flatten(1).to(self._wide)
        self._before = self._norm
        # Into the place of the step before the last, since fresh memory takes longer than the subtraction.
        self._update, self._update_before = torch.sub(z, self._z, out=self._update_before), self._update
        self._z, self._norm = z, self._norms(z)
        self._length = self._norms(self._update)
        self._scale = torch.maximum(self._scale, self._norm)
        if step == 0:
            return
        self._path = self._path + self._length
        self._moving = torch.where(self._length > self._tolerance * self._scale, step, self._moving)
        if step == self._half:
            self._z_half = z
        if self._half < step <= self._quarter:
            self._third = self._third + self._length
        if step > self._quarter:
            self._last = self._last + self._length
        if step == self._reference:
            self._z_reference = z
        if step > self._reference + 1:
            back = self._norms(z - self._z_reference) <= RETURN * self._length
            self._period = torch.where(back & (self._period == 0), step - self._reference, self._period)

    def _norms(self, rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(rows, dim=1, dtype=self._double)

    def residual(self) -> Tensor:
        """The length of the last step relative to the norm of the state from which it started, one a row."""
        return torch.where(self._length == 0, 0, self._length / self._before)

    def angle(self) -> Tensor:
        """The angle between the last two steps in degrees, one a row; NaN where one of them is within rounding."""
        other = self._norms(self._update_before)
        cosine = (self._update * self._update_before).sum(1) / (self._length * other)
        moves = torch.minimum(self._length, other) > self._floor * self._norm
        return torch.where(moves, cosine.clamp(-1, 1).arccos().rad2deg(), torch.nan)

    def finite(self) -> Tensor:
        """Tell which states are finite; it is remembered which were not."""
        found = torch.isfinite(self._z).all(1)
        self._always_finite = self._always_finite & found
        return found

    def judge(self, moved: Tensor, entering: Tensor) -> dict[str, NDArray[Any]]:
        """Judge each row by the whole run.

        Choice: the rules are tried in this order. A state ``diverges`` if it was not finite. It is ``idle`` if all its
        steps together are within the tolerance and the blocks do not move the stage's input either; if they move that
        one, the state was at rest from the start, and ``settles``. It also ``settles`` if its last steps are within
        the tolerance and shrink, or are within rounding. It ``diverges`` if its steps grow, ``cycles`` if it comes
        back, or has been on the way without getting anywhere, and ``drifts`` otherwise. Lengths are relative to the
        largest norm that the state has had: relative to its present norm, a step towards a fixed point at 0 never
        gets small.

        Args:
            moved: The rows of the representation that the blocks make of the stage's input.
            entering: The rows of the stage's input.

        Returns:
            Arrays ``verdict``, ``converges``, ``settling_step`` (-1 where the state is not at rest at the end) and
            ``period`` (0 where there is none).
        """
        third = self._third / max(self._quarter - self._half, 1)
        last = self._last / (self._steps - self._quarter)
        relative = last / self._scale
        at_rounding = last <= self._floor * self._scale
        shrinks = (last <= SHRINKING * third) | at_rounding
        still = self._path <= self._tolerance * self._scale
        x, y = (rows.flatten(1).to(self._wide) for rows in (entering, moved))
        acts = self._norms(y - x) > self._tolerance * self._norms(x)
        settles = (still & acts) | at_rounding | ((relative <= self._tolerance) & shrinks)
        grows = (last >= third / SHRINKING) & (relative > self._tolerance)
        displaced = self._norms(self._z - self._z_half)
        returns = (self._period > 0) | (displaced <= STRAIGHT * (self._third + self._last))
        overflows = ~torch.isfinite(relative) & (self._scale > 0)  # the norm does, though the state is finite
        rules = [~self._always_finite, still & ~acts, settles, grows | overflows, returns]
        names = ["diverges", "idle", "settles", "diverges", "cycles"]
        verdict = np.select([rule.cpu().numpy() for rule in rules], names, "drifts")
        resting = np.isin(verdict, ("settles", "idle"))
        return {
            "verdict": verdict,
            "converges": (shrinks & self._always_finite & ~overflows).cpu().numpy(),
            "settling_step": np.where(resting, self._moving.cpu().numpy(), -1),
            "period": np.where(verdict == "cycles", self._period.cpu().numpy(), 0),
        }
