"""The command line: it turns words into calls and does nothing else.

Everything heavy is imported when a command runs, so that help is shown at once.
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from iterconv.cli.interruption import interruptible
from iterconv.cli.parsing import parse
from iterconv.data.known import KNOWN
from iterconv.errors import InputError, OptionError
from iterconv.options import Against, Debris, Mode
from iterconv.paths.families import FAMILIES
from iterconv.training.config import RunConfig
from iterconv.zoo.model_options import ModelOptions

DEFAULT_ROOT = Path("runs")
_FAMILIES = f"""Families of paths to measure besides those that the indices need:
any of {", ".join(FAMILIES)}, and those that the module of your model registers."""

DATA_SETS = (
    f"{', '.join(KNOWN)}, a folder, a Parquet file, a hub name, a .safetensors file that this command made; "
    "or digitclutter, to make one."
)


def _cores() -> int:
    # The process may be confined to some of the machine's cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one network and measure it; an interrupted run goes on when the same command is given again."""

    run: conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    out: Path | None = None
    """The run's folder; runs/<name of the run> by default."""
    device: str | None = None
    """The device: cpu, cuda, ...; by default the accelerator, if there is one."""

    def __call__(self, stop: threading.Event) -> int:
        """Train and measure the run in its folder."""
        from iterconv.cli.runs import train

        return train(self.run, self.out or DEFAULT_ROOT / self.run.name, self.device, stop)


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
    workers: int = field(default_factory=_cores)
    """The number of runs side by side, with one thread each; by default the number of the machine's cores."""
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
            return list_studies(self.out, self.workers)
        if self.dry_run:
            return dry_run(self.studies, self.scale, self.out, self.workers)
        return reproduce(self.studies, self.scale, self.out, self.workers, stop)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw the figures and write the report again from the runs that are finished."""

    studies: conf.Positional[tuple[str, ...]] = ()
    """The studies: fig1, fig2, fig3, fig4, fig7, fig8, fig12, fig13; all of them by default."""
    scale: str = "quick"
    """The scale: quick, small, desk or paper."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""

    def __call__(self, stop: threading.Event) -> int:
        """Write the report from the finished runs."""
        from iterconv.cli.studies import write_report

        return write_report(self.studies, self.scale, self.out)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Judge the paper's 17 claims: supported, contradicted or not testable with the runs that are finished."""

    tables: conf.Positional[Path | None] = None
    """A folder of tables, as results/small or runs/report-quick/tables; by default the finished runs of --scale."""
    scale: str = "quick"
    """The scale: quick, small, desk or paper."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""

    def __call__(self, stop: threading.Event) -> int:
        """Print the verdict on every claim."""
        from iterconv.cli.studies import print_claims

        if self.tables is not None and (self.scale, self.out) != ("quick", DEFAULT_ROOT):
            raise InputError(f"{self.tables} is a folder of tables; --scale and --out are for finished runs")
        return print_claims(self.tables, self.scale, self.out)


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
    workers: int = field(default_factory=_cores)
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
    "report": Report,
    "claims": Claims,
    "data": Data,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the program's name; the process's own by default.

    Returns:
        The exit code: 0, 1 if some runs failed, 2 for bad input, 130 after Ctrl-C.

    Raises:
        SystemExit: After help (0), and after tyro's complaints about words that can't be parsed (2).
    """
    command: Any = None
    try:
        command = parse(COMMANDS, list(sys.argv[1:] if arguments is None else arguments))
        # Only training has state to save first; everything else stops at once.
        saves = isinstance(command, Train | Reproduce)
        with interruptible() if saves else contextlib.nullcontext(threading.Event()) as stop:
            code = command(stop)
            sys.stdout.flush()  # a closed pipe is noticed here, where it is handled, and not at exit
            return code
    except InputError as problem:
        words = problem.as_typed if isinstance(problem, OptionError) else str(problem)
        print(f"iterconv: {' '.join(words.split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        # Else Python would complain about the closed pipe once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as problem:
        if not _out_of_memory(problem):
            raise
        print("iterconv: out of memory; use a smaller --width, --batch-size or fewer --workers", file=sys.stderr)
        return 2
    except OSError as problem:
        place = f" {problem.filename}" if problem.filename else ""
        print(f"iterconv: {problem.strerror or problem}{place}; what was saved before is intact", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from here" if isinstance(command, Train | Reproduce) else ""
        print(f"iterconv: stopped{goes_on}", file=sys.stderr)
        return 130


def _out_of_memory(problem: Exception) -> bool:
    # torch has an error of its own for accelerators only; on the CPU it is a RuntimeError like any other.
    return isinstance(problem, MemoryError) or re.search(r"allocate memory|out of memory", str(problem)) is not None
