"""Fig. 1: the toy networks trained and perturbed. Source: Lippl et al., Sec. 3.1, 3.2."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from iterconv import paths
from iterconv.errors import InputError
from iterconv.files import read, to_parquet, write_atomically
from iterconv.models.toy import exact_network, forward_model, sample, toy_network, train_toy
from iterconv.training.loop import Stop

KINDS = ("exact", "residual", "recurrent", "feedforward")
BLOCKS = 16
EXTRA = 16
TRACED = ((1.5, 1.0), (-1.0, 1.5), (-1.5, -1.2), (1.2, -1.6))
"""Latent points whose estimates are traced in the plane."""
MEASURED = 4096
"""The number of fresh samples over which errors are averaged."""


@dataclass(frozen=True)
class ToyRun:
    """A toy network to be trained (the exact one is only built) and perturbed; its table is one file."""

    kind: str
    """One of ``KINDS``."""
    seed: int
    """The seed of its weights and samples."""
    steps = 1
    seconds = 7.0
    gpu_seconds = 14.0
    """On a GPU, layers of 16 units are all launching and no computing."""

    @property
    def name(self) -> str:
        """The network's name."""
        return f"toy-{self.kind}-seed{self.seed}"

    def path(self, root: Path) -> Path:
        """The file of its table."""
        return root / "toy" / f"{self.kind}-seed{self.seed}.parquet"

    def finished(self, root: Path) -> bool:
        """True if the table exists."""
        return self.path(root).exists()

    def run(self, root: Path, on_progress: Callable[[], None], stop: Stop) -> None:
        """Train, perturb and write the table, in some seconds and without a look at ``stop``."""
        write_atomically(self.path(root), to_parquet(perturb(self.kind, self.seed)))
        on_progress()

    def outcome(self, root: Path) -> str:
        """Nothing but that it is done: a toy network has no single error."""
        return "done"

    def tables(self, root: Path) -> dict[str, pd.DataFrame]:
        """Read the network's table.

        Args:
            root: The folder of all runs.

        Returns:
            One row a perturbation, position and point, as the table ``toy``. Points from 0 are those of ``TRACED``,
            with the estimate (z1, z2) and the truth (target1, target2). Rows with point -1 stand for ``MEASURED``
            fresh samples: ``rmse`` is the root mean squared distance to the truth, and ``distance`` the same to the
            unperturbed network's estimate.

        Raises:
            InputError: If the file is damaged.
        """
        path, again = self.path(root), "run `iterconv reproduce fig1` again"
        try:
            return {"toy": pd.read_parquet(io.BytesIO(read(path, again) or b""))[COLUMNS]}
        except (OSError, ValueError, KeyError):
            raise InputError(f"{path} is damaged; delete it and {again}") from None


def toy_runs(seeds: Iterable[int]) -> list[ToyRun]:
    """Every network of Fig. 1; the exact one has nothing to be seeded and is there once."""
    return [ToyRun("exact", 0), *(ToyRun(kind, seed) for kind in KINDS[1:] for seed in seeds)]


COLUMNS = [
    *("kind", "seed", "perturbation", "position", "point"),
    *("z1", "z2", "target1", "target2", "rmse", "distance"),
]
"""The columns of the toy networks' tables."""


def perturb(kind: str, seed: int, steps: int = 2000) -> pd.DataFrame:
    """Train one toy network (the exact one is only built) and evaluate every perturbation.

    Args:
        kind: One of ``KINDS``.
        seed: The seed of its weights and samples.
        steps: The number of optimizer steps.

    Returns:
        The table that ``ToyRun.tables`` describes.
    """
    fresh = sample(MEASURED, torch.Generator().manual_seed(1_000_003 + seed))
    targets = torch.cat([torch.tensor(TRACED), fresh])
    network = _train(kind, seed, steps)
    family = [*paths.early_readouts(BLOCKS), *paths.dropouts(BLOCKS), *paths.extra_evaluations(BLOCKS, EXTRA)]
    routes = [paths.full_route(network.stages), *((p.path,) for p in family)]
    with torch.no_grad():
        outcomes = paths.evaluate(network, routes, forward_model(targets))
        estimates = {route[0]: outcome.output for route, outcome in outcomes}
    intact = estimates[tuple(range(BLOCKS))]
    rows = []
    for p in family:
        z = estimates[p.path]
        label = {"kind": kind, "seed": seed, "perturbation": p.family, "position": p.position}
        for point, ((z1, z2), target) in enumerate(zip(z[: len(TRACED)].tolist(), TRACED, strict=True)):
            rows.append({**label, "point": point, "z1": z1, "z2": z2, "target1": target[0], "target2": target[1]})
        errors = {"rmse": _rms(z[len(TRACED) :] - fresh), "distance": _rms((z - intact)[len(TRACED) :])}
        rows.append({**label, "point": -1, **errors})
    return pd.DataFrame(rows)


def _train(kind: str, seed: int, steps: int) -> paths.StagedModel:
    if kind == "exact":
        return exact_network(BLOCKS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = toy_network(kind, BLOCKS)  # type: ignore[arg-type]
    train_toy(network, steps, seed=seed)
    return network


def _rms(differences: torch.Tensor) -> float:
    return float(differences.double().square().sum(1).mean().sqrt())
