"""The toy inverse problem: an iterative algorithm, the ResNet that is it, and networks trained on the same task.

Forward model ``x = f(z) = (3/2 z1, 3/4 z2)``; wanted is z from x. Source: Lippl et al., Sec. 3.1, 3.2, Fig. 1.
"""

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.errors import InputError, check_count
from iterconv.options import ToyKind
from iterconv.paths.contract import Stage, StagedModel

ALPHAS = (1.5, 0.75)
RATES = (0.3, 0.8)
"""alpha_i of the forward model, and eps_i of the algorithm in Fig. 1."""

Points = Float[Tensor, "n 2"]


def forward_model(z: Points) -> Points:
    """Return the observation x = (alpha_1 z_1, alpha_2 z_2)."""
    return z * z.new_tensor(ALPHAS)


def iterative_algorithm(x: Points, steps: int, rates: tuple[float, float] = RATES) -> Float[Tensor, "steps n 2"]:
    """Error-corrective estimates of z: ``z_i <- z_i - s_i eps_i (alpha_i z_i - x_i)``, from ``z = x``.

    Source: Lippl et al., Sec. 3.1.

    Args:
        x: The observation.
        steps: The number of updates, at least 0.
        rates: eps_1, eps_2, above 0; up to 1 for convergence.

    Returns:
        The estimates after 0..steps updates.
    """
    alphas, eps = x.new_tensor(ALPHAS), x.new_tensor(rates)
    estimates = [x]
    for _ in range(steps):
        z = estimates[-1]
        estimates.append(z - alphas.sign() * eps * (alphas * z - x))
    return torch.stack(estimates)


class ExactBlock(nn.Module):
    """One step of the algorithm as a residual block: positive and negative prediction errors, each rectified.

    The representation is (x_1, x_2, z_1, z_2). Source: Lippl et al., Sec. 3.1, Fig. 1a.

    Args:
        rates: eps_1, eps_2.
    """

    def __init__(self, rates: tuple[float, float] = RATES) -> None:
        super().__init__()
        self.errors, self.update = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        positive = torch.cat([-torch.eye(2), torch.diag(torch.tensor(ALPHAS))], 1)  # alpha z - x
        step = torch.diag(torch.tensor(ALPHAS).sign() * torch.tensor(rates))
        with torch.no_grad():
            self.errors.weight.copy_(torch.cat([positive, -positive]))
            self.update.weight.copy_(torch.cat([torch.zeros(2, 4), torch.cat([-step, step], 1)]))

    def forward(self, representation: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """The representation after one update."""
        return representation + self.update(F.relu(self.errors(representation)))


class ToyBlock(nn.Module):
    """A trained block: linear, ReLU, linear, with or without the shortcut."""

    def __init__(self, width: int, hidden: int, shortcut: bool) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.shortcut = shortcut

    def forward(self, z: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """The next representation."""
        change = self.outer(F.relu(self.inner(z)))
        return z + change if self.shortcut else change


class _Estimate(nn.Module):
    """Reads the estimate (z_1, z_2) out of the exact network's representation."""

    def forward(self, representation: Float[Tensor, "n 4"]) -> Points:
        return representation[:, 2:]


class _Twice(nn.Module):
    """The exact network's encoder: (x, z = x)."""

    def forward(self, x: Points) -> Float[Tensor, "n 4"]:
        return torch.cat([x, x], 1)


def exact_network(blocks: int = 16, rates: tuple[float, float] = RATES) -> StagedModel:
    """The ResNet that equals the iterative algorithm, one block a step.

    Args:
        blocks: The number of steps, at least 1.
        rates: eps_1, eps_2.

    Returns:
        A network from x (n, 2) to the estimate of z (n, 2).

    Raises:
        InputError: If there are no blocks.
    """
    blocks = check_count("blocks", blocks, why="is too few")
    return StagedModel(_Twice(), [Stage([ExactBlock(rates) for _ in range(blocks)])], [], _Estimate())


def toy_network(kind: ToyKind, blocks: int = 16, width: int = 16, hidden: int = 16) -> StagedModel:
    """An untrained network for the toy problem: linear encoder, blocks, linear decoder.

    Choice: the text gives no sizes for the trained networks; 16 blocks of width 16 here. Weights keep the
    variance of what they are given (else the deep net without shortcuts does not train at all); residual
    branches start at a tenth of that, near the identity.

    Args:
        kind: ``"residual"``; ``"recurrent"``, whose blocks are one and the same module; or
            ``"feedforward"``, without shortcuts.
        blocks: The number of blocks, at least 1.
        width: The width of the representation.
        hidden: The number of hidden units of a block.

    Returns:
        The network, initialised from torch's global random state.

    Raises:
        InputError: If the kind is unknown or there are no blocks.
    """
    if kind not in get_args(ToyKind):
        raise InputError(f"kind={kind!r} is unknown; use one of {', '.join(get_args(ToyKind))}")
    blocks = check_count("blocks", blocks, why="is too few")
    run = [ToyBlock(width, hidden, shortcut=kind != "feedforward") for _ in range(blocks)]
    if kind == "recurrent":
        run = run[:1] * blocks
    for block in dict.fromkeys(run):  # each once, in order: a set would draw the weights in any order
        nn.init.kaiming_normal_(block.inner.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(block.outer.weight, nonlinearity="linear")
        nn.init.zeros_(block.inner.bias)
        nn.init.zeros_(block.outer.bias)
        if block.shortcut:
            with torch.no_grad():
                block.outer.weight.mul_(0.1)
    return StagedModel(nn.Linear(2, width), [Stage(run)], [], nn.Linear(width, 2))


def train_toy(
    network: StagedModel, steps: int = 2000, *, lr: float = 3e-3, batch_size: int = 256, seed: int = 0
) -> float:
    """Train a network to infer z from x by mean squared error, in place.

    Choice: z uniform in [-2, 2]^2, Adam with a cosine schedule; the text does not say.

    Args:
        network: From x (n, 2) to z (n, 2).
        steps: Optimizer steps.
        lr: Initial learning rate.
        batch_size: Fresh samples a step.
        seed: The seed of the samples.

    Returns:
        The root mean squared error on 4,096 fresh samples.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        z = sample(batch_size, generator)
        optimizer.zero_grad()
        F.mse_loss(network(forward_model(z)), z).backward()
        optimizer.step()
        schedule.step()
    z = sample(4096, generator)
    with torch.no_grad():
        return float(F.mse_loss(network(forward_model(z)), z).sqrt())


def sample(n: int, generator: torch.Generator) -> Points:
    """Draw latent points, uniform in [-2, 2]^2."""
    return torch.rand(n, 2, generator=generator) * 4 - 2
