"""Fig. 1: the toy networks trained and perturbed. Source: Lippl et al., Sec. 3.1, 3.2."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from iterconv import paths
from iterconv.errors import InputError
from iterconv.files import write_atomically
from iterconv.models.toy import exact_network, forward_model, sample, toy_network, train_toy

KINDS = ("exact", "residual", "recurrent", "feedforward")
BLOCKS = 16
EXTRA = 16
TRACED = ((1.5, 1.0), (-1.0, 1.5), (-1.5, -1.2), (1.2, -1.6))
"""Latent points whose estimates are traced in the plane."""
MEASURED = 4096
"""Fresh samples that errors are taken over."""


@dataclass(frozen=True)
class ToyRun:
    """One toy network: trained (the exact one is only built), perturbed, its table kept in one file."""

    kind: str
    """One of ``KINDS``."""
    seed: int
    """Of its weights and samples."""

    @property
    def name(self) -> str:
        """What it is called."""
        return f"toy-{self.kind}-seed{self.seed}"

    def path(self, root: Path) -> Path:
        """The file of its table."""
        return root / "toy" / f"{self.kind}-seed{self.seed}.parquet"

    def complete(self, root: Path) -> None:
        """Train, perturb and write the table; some seconds, unless it is there."""
        if not self.path(root).exists():
            write_atomically(self.path(root), perturbed(self.kind, self.seed).to_parquet(index=False))


def toy_runs(seeds: Iterable[int]) -> list[ToyRun]:
    """Every network of Fig. 1; the exact one has nothing to be seeded and is there once."""
    return [ToyRun("exact", 0), *(ToyRun(kind, seed) for kind in KINDS[1:] for seed in seeds)]


COLUMNS = [
    *("kind", "seed", "perturbation", "position", "point"),
    *("z1", "z2", "target1", "target2", "rmse", "distance"),
]
"""Of the toy networks' tables."""


def toy_table(runs: Iterable[ToyRun], root: Path) -> pd.DataFrame:
    """Stack the tables of the toy networks that are finished.

    Args:
        runs: The networks.
        root: The folder of all runs.

    Returns:
        One row a network (kind, seed), perturbation, position and point. Points from 0 are those of
        ``TRACED``, with the estimate (z1, z2) and the truth (target1, target2). Rows with point -1 stand for
        ``MEASURED`` fresh samples: ``rmse``, the root mean squared distance to the truth, and ``distance``, the
        same to the unperturbed network's estimate.

    Raises:
        InputError: If a file is damaged.
    """
    parts = []
    for run in runs:
        path = run.path(root)
        if path.exists():
            try:
                parts.append(pd.read_parquet(path)[COLUMNS])
            except (OSError, ValueError, KeyError):
                raise InputError(f"{path} is damaged; delete it and run `iterconv reproduce fig1` again") from None
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def perturbed(kind: str, seed: int, steps: int = 2000) -> pd.DataFrame:
    """Train one toy network (the exact one is only built) and evaluate every perturbation.

    Args:
        kind: One of ``KINDS``.
        seed: Of its weights and samples.
        steps: Optimizer steps.

    Returns:
        The table that ``toy_table`` describes.
    """
    if kind == "exact":
        network = exact_network(BLOCKS)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = toy_network(kind, BLOCKS)  # type: ignore[arg-type]
        train_toy(network, steps, seed=seed)
    fresh = sample(MEASURED, torch.Generator().manual_seed(1_000_003 + seed))
    targets = torch.cat([torch.tensor(TRACED), fresh])
    family = [
        *paths.early_readouts(BLOCKS),
        *paths.dropouts(BLOCKS),
        *paths.extra_evaluations(BLOCKS, EXTRA),
    ]
    with torch.no_grad():
        routes = [paths.full_route(network.stages), *((p.path,) for p in family)]
        found = {route[0]: outcome.output for route, outcome in paths.evaluate(network, routes, forward_model(targets))}
    intact = found[tuple(range(BLOCKS))]
    rows = []
    for p in family:
        estimates = found[p.path]
        label = {"kind": kind, "seed": seed, "perturbation": p.family, "position": p.position}
        for point, (z, target) in enumerate(zip(estimates[: len(TRACED)].tolist(), TRACED, strict=True)):
            rows.append({**label, "point": point, "z1": z[0], "z2": z[1], "target1": target[0], "target2": target[1]})
        rows.append(
            {
                **label,
                "point": -1,
                "rmse": _rms(estimates[len(TRACED) :] - fresh),
                "distance": _rms((estimates - intact)[len(TRACED) :]),
            }
        )
    return pd.DataFrame(rows)


def _rms(differences) -> float:  # type: ignore[no-untyped-def]
    return float(differences.double().square().sum(1).mean().sqrt())
