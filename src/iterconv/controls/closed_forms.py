"""Linear systems: every error, index and growth rate follows from powers of a matrix."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iterconv.controls.control import EXACT, Check, Control, check_close, check_equal, check_range_of
from iterconv.measuring import measure
from iterconv.paths.contract import Stage, StagedModel
from iterconv.planning import plan
from iterconv.settling import depth, settle

BLOCKS, EXTRA, EXAMPLES, STEPS = 8, 16, 200, 100
ANGLE = 1.0
"""The angle, in radians, by which an application turns the state; no multiple of it is a full turn."""
SKEW = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
"""Makes the matrices far from normal, so that norms and spectral radii differ."""


class _Affine(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return z @ self.matrix.T + x


class _Recalling(Stage):
    """z <- A z + x, where x entered the stage."""

    def step(self, index: int, z: Any, stage_input: Any) -> Any:
        return self.blocks[index](z, stage_input)


class _Side(nn.Module):
    """Two logits: on which side of a line the state lies."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 0], -z[:, 0]], 1)


def make_matrix(radius: float) -> Tensor:
    """Make a matrix whose eigenvalues are a pair of that modulus, and which is not normal.

    Args:
        radius: The modulus, above 0.

    Returns:
        The matrix, shape (2, 2), in double precision.
    """
    cosine, sine = math.cos(ANGLE), math.sin(ANGLE)
    turn = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    return radius * SKEW @ turn @ SKEW.inverse()


def _states(matrix: NDArray[np.float64], x: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The state after ``count`` applications, from the sum of the geometric series of the matrix."""
    power = np.linalg.matrix_power(matrix, count)
    series = np.linalg.solve(np.eye(2) - matrix, np.eye(2) - power)
    return np.asarray(x @ (power + series).T)


def examine_linear(radius: float, verdict: str) -> list[Check]:
    """Measure a tied linear system, and compare with its closed form.

    The right answer of an example is on which side of a line its state comes to rest, or, if it never does, where it is
    after the ordinary pass.

    Args:
        radius: The spectral radius of its matrix.
        verdict: The verdict on every example.

    Returns:
        The checks.
    """
    matrix = make_matrix(radius)
    x = torch.randn(EXAMPLES, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sides = np.stack([_states(matrix.numpy(), x.numpy(), n)[:, 0] < 0 for n in range(BLOCKS + EXTRA + 1)])
    right = _states(matrix.numpy(), x.numpy(), 10_000 if radius < 1 else BLOCKS)[:, 0] < 0
    wrong = sides != right
    errors = wrong.mean(1)
    block = _Affine(matrix)
    model = StagedModel(nn.Identity(), [_Recalling([block] * BLOCKS)], [], _Side())
    labels = torch.from_numpy(right).long()
    batches = list(zip(x.split(EXAMPLES // 2), labels.split(EXAMPLES // 2), strict=True))

    report = measure(model, batches, chance=0.5, resamples=0, extra_evaluations=EXTRA)
    margin, intact = 0.5 - errors[BLOCKS], errors[BLOCKS]
    known = {
        "convergence": (0.5 - errors[1:BLOCKS].mean()) / margin,
        "recurrence": 1.0,
        "divergence": (errors[BLOCKS + 1 :] - intact).mean() / margin,
    }
    found = report.indices[report.indices.stage == 0].set_index("index").value
    checks = [check_close(name, found[name], value) for name, value in known.items()]
    side = (-0.02, 0.02) if radius < 1 else (0.2, math.inf)
    checks.append(check_range_of("divergence, its side", found["divergence"], *side))

    settling = settle(model, batches, steps=STEPS)
    checks.append(check_equal("verdicts", _names(settling.examples.verdict), verdict))
    growth = settling.steps.growth[settling.steps.finite == 1]
    checks.append(check_range_of("growth rates", growth, 0.99 * radius, 1.01 * radius))
    curve = depth(model, batches, extra_evaluations=EXTRA).curve.error
    checks.append(check_range_of("depth, off by", np.abs(curve - errors[1:]).max(), 0, EXACT))
    frontier = plan(model, batches, resamples=0).frontier
    held_out = wrong[:, EXAMPLES // 2 :].mean(1)[frontier.blocks]
    return [*checks, check_range_of("plan, off by", np.abs(frontier.error - held_out).max(), 0, EXACT)]


def _names(values: Any) -> str:
    return ", ".join(sorted(set(values)))


def _control(name: str, radius: float, verdict: str, statement: str) -> Control:
    return Control(name=name, statement=statement, examine=partial(examine_linear, radius, verdict), cost=1)


CONTROLS: Sequence[Control] = (
    _control("contraction", 0.6, "settles", "A linear contraction of spectral radius 0.6 comes to rest."),
    _control("rotation", 1.0, "cycles", "A linear rotation goes round and round."),
    _control("expansion", 1.1, "diverges", "A linear expansion of spectral radius 1.1 grows without end."),
)
