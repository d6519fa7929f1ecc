"""The commands and their options, as data classes from which the parser is made; each only calls its function.

Everything heavy is imported when a command runs, so that help is shown at once.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from iterconv.cli.commands_of_depth import Controls, Depth, Exits, Settle
from iterconv.cli.commands_of_studies import DEFAULT_ROOT, Claims, Json, Report, Reproduce, Status, Sweep
from iterconv.data.known import KNOWN
from iterconv.errors import InputError
from iterconv.options import Against, Debris, MemoryFormat, Mode, Shell, SpanKind, Tracker
from iterconv.paths.families import FAMILIES
from iterconv.studies.executors.engines import cores
from iterconv.training.config import RunConfig
from iterconv.zoo.model_options import ModelOptions

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
    json: Json = False

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.out or DEFAULT_ROOT / self.run.name

    def __call__(self, stop: threading.Event) -> int:
        """Train and measure the run in its folder."""
        from iterconv.cli.runs import train

        return train(self.run, self.folder, stop, device=self.device, devices=self.devices, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure the indices of a model, print them as a table, and write a report and a picture."""

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, cifar-resnet:PATH (weights of a ResNet of He et al.'s for
    CIFAR-10), a file that plan saved, or module:function, which returns a model; the module's code is run. The others
    never run code that comes with a model."""
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
    memory_format: MemoryFormat = "given"
    """The order of images in memory: given, or channels_last, in which processors convolve faster. Results differ by
    rounding."""
    audit: bool = False
    """Also bound and measure the Lipschitz constant of every block."""
    html: Path | None = None
    """The file of a page (.html) in which a reader explores the result."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Open the model and measure it."""
        from iterconv.cli.models import measure_model

        options: dict[str, Any] = {
            "extra_evaluations": self.extra_evaluations,
            "resamples": self.resamples,
            "families": self.families,
        }
        options["memory_format"] = self.memory_format
        model = (self.model, self.data_and_model)
        return measure_model(*model, self.out, self.html, self.audit, self.against, **options)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan which blocks of a model to drop or share, print the frontier, and write it with a picture.

    Routes are searched on one half of the batches, and their errors reported on the other half.
    """

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, cifar-resnet:PATH (weights of a ResNet of He et al.'s for
    CIFAR-10), a file that plan saved, or module:function, which returns a model; the module's code is run. The others
    never run code that comes with a model."""
    data_and_model: conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    out: Path | None = None
    """The file of the frontier (.csv); a picture is drawn beside it."""
    against: Annotated[Against | None, conf.arg(aliases=["--reference"])] = None
    """The reference of errors: labels (by default, if there are any), or predictions, the model's own."""
    budget: float | None = None
    """The least number of blocks to be left, or their share such as 0.5; a quarter by default. For repeat, the largest
    number of blocks to be executed, or a share such as 1.5; 1.25 by default."""
    mode: Mode = "drop"
    """The mode: drop leaves blocks out; share keeps their number and lets them share weights; repeat executes blocks
    several times."""
    beam: int = 2
    """The number of routes that are kept at each step."""
    spans: bool = False
    """Also drop or repeat several blocks in a row at once."""
    blocks: Annotated[int | None, conf.arg(aliases=["--keep"])] = None
    """The number of blocks of a smaller model, which is made and written to --save."""
    save: Path | None = None
    """The place of the smaller model: a folder for transformers models, else a .safetensors file, which measure opens;
    or a .yaml file, for the recipe by which mergekit makes that model."""
    html: Path | None = None
    """The file of a page (.html) in which a reader explores the result."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Open the model, plan, and save the smaller model if one is asked for."""
        from iterconv.cli.models import plan_model

        # The option is a float, but 2.0 blocks are meant as a number of blocks and 0.5 as a share.
        share = self.budget is None or self.budget < 1 or not self.budget.is_integer()
        budget = self.budget if share or self.budget is None else int(self.budget)
        options: dict[str, Any] = {"budget": budget, "mode": self.mode, "beam": self.beam, "spans": self.spans}
        model = (self.model, self.data_and_model)
        return plan_model(*model, self.out, self.html, self.blocks, self.save, self.against, **options)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Map what it costs to drop, repeat or swap every span of blocks, and write a table and a picture."""

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, a file that plan saved, or module:function, which returns a
    model; the module's code is run. timm: and hf: never run code that comes with a model."""
    data_and_model: conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    out: Path | None = None
    """The file of the table (.csv); a picture is drawn beside it."""
    against: Against | None = None
    """The reference of errors: labels (by default, if there are any), or predictions, the model's own."""
    kinds: tuple[SpanKind, ...] = ("drop", "repeat", "swap")
    """The kinds of maps: drop leaves a span out, repeat executes it twice, swap exchanges its first and last block."""
    resamples: int = 1000
    """The number of bootstrap resamples for the intervals; 0 for no intervals."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Open the model and map its spans."""
        from iterconv.cli.spans import map_spans

        own = (self.out, self.against, self.kinds)
        return map_spans(self.model, self.data_and_model, *own, resamples=self.resamples)


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
    """For digitclutter: the .safetensors file to write, which train, measure and data take."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Make Digitclutter images, or describe a data set."""
        from iterconv.cli.runs import describe_data, make_digitclutter

        if self.name == "digitclutter":
            font = str(self.font) if self.font else None
            return make_digitclutter(self.out, self.n, self.digits, self.seed, self.debris, font, self.workers)
        if self != Data(name=self.name, json=self.json):
            raise InputError(f"--digits, --n, ... --out are for digitclutter; {self.name} is only loaded and described")
        return describe_data(self.name)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print a script that lets a shell complete commands and options; docs/command-line.md says where it goes."""

    shell: conf.Positional[Shell]
    """The shell: bash, zsh or fish."""

    def __call__(self, stop: threading.Event) -> int:
        """Print the script."""
        from iterconv.cli.parsing import print_completion

        print_completion(COMMANDS, self.shell)
        return 0


COMMANDS: dict[str, type] = {
    "reproduce": Reproduce,
    "train": Train,
    "measure": Measure,
    "plan": Plan,
    "spans": Spans,
    "settle": Settle,
    "depth": Depth,
    "exits": Exits,
    "sweep": Sweep,
    "status": Status,
    "report": Report,
    "claims": Claims,
    "controls": Controls,
    "data": Data,
    "completion": Completion,
}
