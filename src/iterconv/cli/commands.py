"""The commands and their options, as data classes from which the parser is made; each only calls its function.

Everything heavy is imported when a command runs, so that help is shown at once.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro import conf

from iterconv.cli.depth_commands import Depth, Settle
from iterconv.cli.exit_command import Exits
from iterconv.data.known import KNOWN
from iterconv.errors import InputError
from iterconv.options import Against, Debris, Mode, Tracker
from iterconv.paths.families import FAMILIES
from iterconv.studies.executors.engines import EngineOptions, cores
from iterconv.training.config import RunConfig
from iterconv.zoo.model_options import ModelOptions

DEFAULT_ROOT = Path("runs")
_FAMILIES = f"""Families of paths to measure besides those that the indices need:
any of {", ".join(FAMILIES)}, and those that the module of your model registers."""

DATA_SETS = (
    f"{', '.join(KNOWN)}, a folder, a Parquet file, a hub name, a .safetensors file that this command made; "
    "or digitclutter, to make one."
)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one network and measure it; an interrupted run goes on when the same command is given again."""

    run: conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    out: Path | None = None
    """The run's folder; runs/<name of the run> by default."""
    device: str | None = None
    """The device: cpu, cuda, ...; by default the accelerator, if there is one."""
    devices: int = 1
    """The number of devices of this kind to train on. Each batch is divided among them, and numbers differ from those
    of one device by rounding only. An interrupted run may go on with another number."""
    log: tuple[Tracker, ...] = ()
    """The trackers that the run is logged with: any of tensorboard, mlflow and wandb. Their files are in the run's
    folder logs, unless MLFLOW_TRACKING_URI names a server, or wandb is online."""

    def __call__(self, stop: threading.Event) -> int:
        """Train and measure the run in its folder."""
        from iterconv.cli.runs import train

        out = self.out or DEFAULT_ROOT / self.run.name
        return train(self.run, out, stop, device=self.device, devices=self.devices, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure the indices of a model, print them as a table, and write a report and a picture."""

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, a file that plan saved, or module:function, which returns a
    model; the module's code is run. timm: and hf: never run code that comes with a model."""
    data_and_model: conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    out: Path | None = None
    """The file of the report (.parquet or .json); a picture is drawn beside it."""
    against: Annotated[Against | None, conf.arg(aliases=["--reference"])] = None
    """The reference of errors: labels (by default, if there are any), or predictions, the model's own."""
    extra_evaluations: int = 16
    """The largest number of extra evaluations of the last block."""
    families: Annotated[tuple[str, ...], conf.arg(help=_FAMILIES, aliases=["--further"])] = ()
    resamples: Annotated[int, conf.arg(aliases=["--replicates"])] = 1000
    """The number of bootstrap resamples for the intervals; 0 for no intervals."""
    audit: bool = False
    """Also bound and measure the Lipschitz constant of every block."""

    def __call__(self, stop: threading.Event) -> int:
        """Open the model and measure it."""
        from iterconv.cli.models import measure_model

        options = {"extra_evaluations": self.extra_evaluations, "resamples": self.resamples, "families": self.families}
        return measure_model(self.model, self.data_and_model, self.out, self.audit, self.against, **options)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan which blocks of a model to drop or share, print the frontier, and write it with a picture.

    Routes are searched on one half of the batches, and their errors reported on the other half.
    """

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, a file that plan saved, or module:function, which returns a
    model; the module's code is run. timm: and hf: never run code that comes with a model."""
    data_and_model: conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    out: Path | None = None
    """The file of the frontier (.csv); a picture is drawn beside it."""
    against: Annotated[Against | None, conf.arg(aliases=["--reference"])] = None
    """The reference of errors: labels (by default, if there are any), or predictions, the model's own."""
    budget: float | None = None
    """The least number of blocks to be left, or their share as a number below 1; a quarter by default."""
    mode: Mode = "drop"
    """The mode: drop leaves blocks out; share keeps their number and lets them share weights."""
    beam: int = 2
    """The number of routes that are kept at each step."""
    blocks: Annotated[int | None, conf.arg(aliases=["--keep"])] = None
    """The number of blocks of a smaller model, which is made and written to --save."""
    save: Path | None = None
    """The place of the smaller model: a folder for transformers models, else a .safetensors file; measure opens it."""

    def __call__(self, stop: threading.Event) -> int:
        """Open the model, plan, and save the smaller model if one is asked for."""
        from iterconv.cli.models import plan_model

        # The option is a float, but 2.0 blocks are meant as a number of blocks and 0.5 as a share.
        share = self.budget is None or self.budget < 1 or not self.budget.is_integer()
        budget = self.budget if share or self.budget is None else int(self.budget)
        options = {"budget": budget, "mode": self.mode, "beam": self.beam}
        return plan_model(self.model, self.data_and_model, self.out, self.blocks, self.save, self.against, **options)


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Train and measure the runs that the paper's studies still lack, draw the figures and write the report."""

    studies: conf.Positional[tuple[str, ...]] = ()
    """The studies: fig1, fig2, fig3, fig4, fig7, fig8, fig12, fig13; all of them by default."""
    scale: str = "quick"
    """The size of networks and data: quick (minutes), small (hours), desk (days) or paper (GPUs)."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""
    engine: conf.OmitArgPrefixes[EngineOptions] = field(default_factory=EngineOptions)
    list: bool = False
    """Show the studies and scales with their cost, and stop."""
    dry_run: bool = False
    """Show every run with its cost on this machine and on a GPU, and stop."""

    def __call__(self, stop: threading.Event) -> int:
        """List studies, show their runs, or train, measure and report."""
        from iterconv.cli.studies import dry_run, list_studies, reproduce

        if self.list and (self.studies or self.scale != "quick"):
            raise InputError("--list shows all studies and scales; use --dry-run for some of them")
        if self.list:
            return list_studies(self.out, self.engine)
        if self.dry_run:
            return dry_run(self.studies, self.scale, self.out, self.engine)
        return reproduce(self.studies, self.scale, self.out, self.engine, stop)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train and measure a grid of runs of your own, and write a table of their results."""

    file: conf.Positional[Path]
    """A YAML file of fields of a run with a value or a list of values, as width: [8, 16], of which every combination is
    a run; or a CSV file with one run a row. iterconv train --help lists the fields."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and of the table; runs that are there already are not repeated."""
    engine: conf.OmitArgPrefixes[EngineOptions] = field(default_factory=EngineOptions)
    dry_run: bool = False
    """Show every run with its cost on this machine, and stop."""

    def __call__(self, stop: threading.Event) -> int:
        """Bring the runs to their end."""
        from iterconv.cli.sweeps import sweep

        return sweep(self.file, self.out, self.engine, self.dry_run, stop)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show the state of all runs of reproduce and sweep in a folder, also while others are at work there."""

    folder: conf.Positional[Path] = DEFAULT_ROOT
    """The folder of runs."""
    json: bool = False
    """Print one JSON object a run, each on a line of its own."""
    watch: bool = False
    """Show it anew every two seconds until no run is at work."""

    def __call__(self, stop: threading.Event) -> int:
        """Show the states."""
        from iterconv.cli.sweeps import status

        return status(self.folder, self.json, self.watch)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw the figures and write the report again from the runs that are finished."""

    studies: conf.Positional[tuple[str, ...]] = ()
    """The studies: fig1, fig2, fig3, fig4, fig7, fig8, fig12, fig13; all of them by default."""
    scale: str = "quick"
    """The scale: quick, small, desk or paper."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""
    stack: int = 1
    """The option --stack with which the runs were trained."""

    def __call__(self, stop: threading.Event) -> int:
        """Write the report from the finished runs."""
        from iterconv.cli.studies import write_report

        return write_report(self.studies, self.scale, self.out, self.stack)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Judge the paper's 17 claims: supported, contradicted or not testable with the runs that are finished."""

    tables: conf.Positional[Path | None] = None
    """A folder of tables, as results/small or runs/report-quick/tables; by default the finished runs of --scale."""
    scale: str = "quick"
    """The scale: quick, small, desk or paper."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""
    stack: int = 1
    """The option --stack with which the runs were trained."""

    def __call__(self, stop: threading.Event) -> int:
        """Print the verdict on every claim."""
        from iterconv.cli.studies import print_claims

        if self.tables is not None and (self.scale, self.out, self.stack) != ("quick", DEFAULT_ROOT, 1):
            raise InputError(f"{self.tables} is a folder of tables; --scale, --out and --stack are for finished runs")
        return print_claims(self.tables, self.scale, self.out, self.stack)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Load a data set and describe it, or make Digitclutter images: iterconv data digitclutter --out FILE."""

    name: Annotated[conf.Positional[str], conf.arg(help=DATA_SETS)]
    digits: int = 5
    """For digitclutter: the number of digits in each image."""
    n: int = 100_000
    """For digitclutter: the number of images."""
    seed: int = 0
    """For digitclutter: the seed; equal seeds make equal images."""
    debris: Debris | None = None
    """For digitclutter: the amount of crops of digits that are pasted over the images."""
    font: Path | None = None
    """For digitclutter: the file of a bold font; matplotlib's DejaVu Sans Bold by default."""
    workers: int = field(default_factory=cores)
    """For digitclutter: the number of processes; by default the number of the machine's cores."""
    out: Path | None = None
    """For digitclutter: the .safetensors file to write, which train and data take."""

    def __call__(self, stop: threading.Event) -> int:
        """Make Digitclutter images, or describe a data set."""
        from iterconv.cli.runs import describe_data, make_digitclutter

        if self.name == "digitclutter":
            font = str(self.font) if self.font else None
            return make_digitclutter(self.out, self.n, self.digits, self.seed, self.debris, font, self.workers)
        if self != Data(name=self.name):
            raise InputError(f"--digits, --n, ... --out are for digitclutter; {self.name} is only loaded and described")
        return describe_data(self.name)


COMMANDS: dict[str, type] = {
    "reproduce": Reproduce,
    "train": Train,
    "measure": Measure,
    "plan": Plan,
    "settle": Settle,
    "depth": Depth,
    "exits": Exits,
    "sweep": Sweep,
    "status": Status,
    "report": Report,
    "claims": Claims,
    "data": Data,
}
