"""Properly convergent stages that are iterated to a tolerance, and trained by the implicit gradient."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.errors import InputError
from iterconv.models.blocks import Maps, ResidualBlock
from iterconv.models.constrained import ConstrainedStage
from iterconv.models.fixed_point import Iterating, Solution, solve
from iterconv.paths.contract import StagedModel
from iterconv.spectral.linear_maps import diagonal_of


class Equilibrium(nn.Module):
    """A tied, properly convergent stage as the fixed point z = x + f(z) / c, iterated to a tolerance.

    Source: Lippl et al., Sec. 2 and 4.2, which name computation to any precision as a gain of convergence; z exists and
    is unique as f / c is a contraction. Choice: inside the loop, batch norms use their running statistics, also in
    training, and leave them as they are: with statistics of the batch, f would be another function at each application,
    an example's fixed point would depend on the others, and no bound would hold for it. The constant c is computed
    once for all applications: in training by a step of the power iteration, with its gradient, as in
    ``ConstrainedStage``; in evaluation from converged norms.

    Args:
        stage: A properly convergent stage whose blocks are all one module, which is shared with it.
        how: The tolerance, the largest number of applications and the window of Anderson acceleration.

    Raises:
        InputError: If the stage is not properly convergent with a constant below 1, if its blocks are different
            modules, or if a block is not a ``ResidualBlock`` with batch norms that keep running statistics, such as one
            with dropout, whose f changes from one application to the next.
    """

    def __init__(self, stage: nn.Module, how: Iterating | None = None) -> None:
        super().__init__()
        self.stage, self.how = _check(stage), how or Iterating()
        self.training = self.stage.training
        self.found: Solution | None = None
        """The solution of the latest forward pass."""
        self.adjoint: Solution | None = None
        """The solution of the gradient's equation in the latest backward pass."""

    def extra_repr(self) -> str:
        """The tolerance and the window."""
        return f"tolerance={self.how.tolerance:g}, most={self.how.most}, window={self.how.window}"

    def forward(self, x: Maps) -> Maps:
        """Return the fixed point for the stage's input ``x``."""
        self.found = self.adjoint = None
        block: Any = self.stage.blocks[0]
        kernel = block.conv2.weight / self._constant((x.shape[-2], x.shape[-1]))
        tensors = (x, block.bn1.weight, block.bn1.bias, block.conv1.weight, block.bn2.weight, block.bn2.bias, kernel)

        def apply(z: Tensor, x: Tensor, *parts: Tensor) -> Tensor:
            scale1, shift1, inner, scale2, shift2, outer = parts
            hidden = F.conv2d(F.relu(_normalise(block.bn1, z, scale1, shift1)), inner, padding=1)
            return x + F.conv2d(F.relu(_normalise(block.bn2, hidden, scale2, shift2)), outer, padding=1)

        return solve(apply, x, tensors, self.how, self._note)

    def _note(self, found: Solution) -> None:
        """Keep a solution: the first one since the forward pass began is its own, a later one that of the gradient."""
        if self.found is None:
            self.found = found
        else:
            self.adjoint = found

    def _constant(self, size: tuple[int, int]) -> Tensor:
        """The constant c by which f is divided."""
        if not self.training:
            return self.stage.constants(size)[0]
        block: Any = self.stage.blocks[0]
        inner, outer = self.stage.move_vectors(size)
        norm = outer[0] * (diagonal_of(block.bn2) @ inner[0] @ diagonal_of(block.bn1))
        return (norm / self.stage.lipschitz).clamp(min=1)


def to_equilibrium(model: StagedModel, how: Iterating | None = None) -> nn.Sequential:
    """Make a model whose stages are iterated to a tolerance instead of a number of steps.

    Args:
        model: A model of tied, properly convergent stages, as ``models.resnet(residual="proper", blocks=1)``.
        how: The tolerance, the largest number of applications and the window of Anderson acceleration.

    Returns:
        The stem, the fixed points with the transitions between them, and the head, all shared with the model. Training
        it trains the model.

    Raises:
        InputError: If a stage has no fixed point that ``Equilibrium`` finds.
    """
    parts: list[nn.Module] = [model.stem]
    for number, stage in enumerate(model.stages):
        parts += [model.transitions[number - 1]] if number else []
        parts.append(Equilibrium(stage, how))
    made = nn.Sequential(*parts, model.head)
    made.training = model.training
    return made


def _check(stage: Any) -> ConstrainedStage:
    if not isinstance(stage, ConstrainedStage) or not stage.proper:
        raise InputError(
            f"a {type(stage).__name__} without the shortcut from the stage's input has no fixed point for certain; use "
            "stages of iterconv.models.resnet(residual='proper')"
        )
    if stage.lipschitz >= 1:
        raise InputError(f"lipschitz={stage.lipschitz:g} is no contraction; make the stage with a constant below 1")
    if len(set(stage.blocks)) > 1:
        raise InputError(
            f"the {len(stage.blocks)} blocks of the stage are different modules, which have no common fixed point; use "
            "iterconv.models.resnet(residual='proper', blocks=1), whose one block is applied as often as it takes"
        )
    for block in stage.blocks:
        norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
        others = [kind for module in block.modules() if (kind := type(module).__name__).startswith("Dropout")]
        known = type(block) is ResidualBlock and not others
        if not known or any(norm.running_var is None or norm.weight is None for norm in norms):
            what = others[0] if others else "other blocks or batch norms without running statistics"
            raise InputError(
                f"a block of {type(block).__name__} with {what} is no fixed function; use iterconv.models.ResidualBlock"
            )
    return stage


def _normalise(norm: nn.BatchNorm2d, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch norm with running statistics, which stay as they are."""
    return F.batch_norm(z, norm.running_mean, norm.running_var, scale, shift, training=False, eps=norm.eps)
