"""The study of prefix sums: nets that are trained on short strings and tested on long ones."""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from iterconv.errors import InputError, line_of
from iterconv.files import read, read_json, read_tensors, to_json, to_parquet, to_safetensors, write_atomically
from iterconv.measuring.report import Report
from iterconv.studies.cost import CORE, GPU, Cost
from iterconv.studies.extrapolation import count_prefix, extrapolate, measure_prefix
from iterconv.studies.jobs import OnStep
from iterconv.studies.study import CONDITIONS, OtherJobs
from iterconv.studies.where import Where
from iterconv.training.loop import Stop
from iterconv.training.prefix import INGREDIENTS, REPORTED, PrefixConfig, make_prefix_network, train_prefix

CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "net.safetensors"
READ_OUTS = "readouts.parquet"
REPORT = "report.parquet"
RESULT = "result.json"


@dataclass(frozen=True)
class PrefixRun:
    """A net for prefix sums to be trained, tested and measured, in a folder of its own."""

    config: PrefixConfig

    @cached_property
    def name(self) -> str:
        """The name of the net and of its folder."""
        return self.config.name

    @property
    def steps(self) -> int:
        """The reports of progress in training, and one for the test."""
        return self.config.steps // REPORTED + 1

    @property
    def seconds(self) -> float:
        """The estimated time on one core of the reference machine."""
        return prefix_cost(self.config).seconds(CORE)

    @property
    def gpu_seconds(self) -> float:
        """The estimated time alone on a data-centre GPU."""
        return prefix_cost(self.config).seconds(GPU)

    @property
    def label(self) -> dict[str, Any]:
        """The columns that tell the net from others: its setting, its condition and its seed."""
        config = asdict(self.config)
        columns = {name: config[name] for name in LABELS}
        return {**where_of(self.config).to_row(), "lacks": self.config.lacks, **columns}

    def path(self, root: Path, file: str) -> Path:
        """One of the net's files."""
        return root / self.name / file

    def finished(self, root: Path) -> bool:
        """True if the net was trained, tested and measured; its weights may have been deleted since."""
        return all(self.path(root, file).is_file() for file in (READ_OUTS, REPORT, RESULT))

    def run(self, root: Path, on_progress: OnStep, stop: Stop) -> None:
        """Train what is missing, test and measure; calls ``on_progress`` every hundred steps and at the end."""
        checkpoint, weights = self.path(root, CHECKPOINT), self.path(root, WEIGHTS)
        write_atomically(self.path(root, CONFIG), to_json(asdict(self.config)))

        def on_step(note: str, step: int) -> None:
            on_progress(note, step // REPORTED)

        if weights.is_file():
            network = make_prefix_network(self.config)
            network.load_state_dict(read_tensors(weights))
        else:
            network = train_prefix(self.config, checkpoint, on_step, stop)
            write_atomically(weights, to_safetensors(network.state_dict()))
        network.eval()
        write_atomically(self.path(root, READ_OUTS), to_parquet(extrapolate(network, self.config, stop)))
        measure_prefix(network, self.config).save(self.path(root, REPORT))
        write_atomically(self.path(root, RESULT), to_json(count_prefix(network)))
        checkpoint.unlink(missing_ok=True)
        on_progress("tested", self.steps)

    def outcome(self, root: Path) -> str:
        """Say the largest share of right strings, over all read-outs, on the shortest and longest strings."""
        best = self.read_outs(root).groupby("length")["accuracy"].max()
        return ", ".join(f"{best[length]:.1%} of {length} bits" for length in (best.index[0], best.index[-1]))

    def read_outs(self, root: Path) -> pd.DataFrame:
        """Read the table of the test.

        Raises:
            InputError: If the file is missing or damaged.
        """
        path, again = self.path(root, READ_OUTS), "run `iterconv reproduce prefix` again"
        try:
            return pd.read_parquet(io.BytesIO(read(path, again) or b""))
        except (OSError, ValueError):
            raise InputError(f"{path} is missing or damaged; delete it and {again}") from None

    def tables(self, root: Path) -> dict[str, pd.DataFrame]:
        """Read the net's rows of the tables ``prefix`` (its test) and ``prefix_nets`` (indices, parameter counts)."""
        label = {"name": self.name, **self.label}
        path = self.path(root, RESULT)
        result = read_json(path, f"there is no {path}; run `iterconv reproduce prefix`")
        indices = Report.load(self.path(root, REPORT)).indices
        means = indices[indices["stage"] == "mean"].set_index("index")["value"]
        return {
            "prefix": self.read_outs(root).assign(**label),
            "prefix_nets": pd.DataFrame([{**label, **result, **means.to_dict()}]),
        }


def prefix_cost(config: PrefixConfig) -> Cost:
    """Count the work of training a net and of its test, all lengths and both rules included."""
    blocks = config.blocks
    # Of a progressive step, the mean of n blocks run forward only; a block with gradients takes three passes.
    passes = (blocks - 1) / 2 + 3 * (blocks + 3) / 4 if config.progressive else 3 * blocks
    applications = config.steps * passes * config.batch_size * config.bits
    applications += 2 * config.iterations * config.strings * sum(config.lengths)
    flops = applications * _CONVOLUTIONS * 2 * 3 * config.width**2
    return Cost({config.width: flops}, round(config.steps * passes / 3 * _CONVOLUTIONS))


_CONVOLUTIONS = 5
"""The convolutions of a block."""

KINDS: tuple[tuple[str, ...], ...] = ((), *((name,) for name in INGREDIENTS))
"""The ingredients of the recipe that each kind of net goes without."""


def prefix_runs(
    seeds: Iterable[int], kinds: Iterable[tuple[str, ...]] = KINDS, **changes: Any
) -> tuple[PrefixRun, ...]:
    """List nets in all of the paper's conditions.

    Args:
        seeds: The seeds.
        kinds: The ingredients of the recipe that a net goes without, for each kind of net; ``()`` is the full recipe.
        changes: Fields of `PrefixConfig` with their values.

    Returns:
        The nets: one kind after the other, and within a kind every condition of one seed before the next seed.
    """
    runs = []
    for without, seed, (init, coupling) in product(kinds, seeds, CONDITIONS):
        options: dict[str, Any] = {**dict.fromkeys(without, False), **changes}
        runs.append(PrefixRun(PrefixConfig(init=init, coupling=coupling, seed=seed, **options)))
    return tuple(runs)


def find_prefix_runs(root: Path) -> list[PrefixRun]:
    """Find the nets for prefix sums that have folders below a folder of runs.

    Raises:
        InputError: If a configuration is damaged.
    """
    found = []
    for path in sorted(root.glob("prefix-*/" + CONFIG)):
        fields = read_json(path, f"there is no {path}; run `iterconv reproduce prefix`")
        try:
            found.append(PrefixRun(PrefixConfig(**{**fields, "lengths": tuple(fields["lengths"])})))
        except (TypeError, KeyError) as problem:
            raise InputError(f"{path} is damaged ({line_of(problem)}); delete its folder") from None
    return found


def where_of(config: PrefixConfig) -> Where:
    """Return the setting of a net: the strings, size and length of its training are what nets that compare share."""
    return Where(
        data=f"prefix sums ({config.bits} bits, width {config.width}, {config.steps:,} steps)",
        stages=1,
        blocks=config.blocks,
    )


def _of_size(seeds: int, **changes: Any) -> OtherJobs:
    make = partial(prefix_runs, **changes)
    return OtherJobs(where=where_of(PrefixConfig(**changes)), make=make, seeds=seeds)


QUICK_PREFIX = _of_size(
    6, width=16, blocks=8, bits=12, steps=1000, lengths=(12, 24, 48, 96), strings=100, iterations=100
)
"""Half the depth of the recipe on half its length, tested on eight times that."""
DESK_PREFIX = _of_size(6)
"""The published recipe's lengths."""

LABELS = ("init", "coupling", *INGREDIENTS, "seed", "width", "blocks", "bits", "steps")
"""The fields of the configuration that are columns of the tables."""
