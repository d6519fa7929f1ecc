"""The commands about many runs and their options: ``reproduce``, ``sweep``, ``status``, ``report`` and ``claims``.

Everything heavy is imported when a command runs, so that help is shown at once.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro import conf

from iterconv.errors import InputError
from iterconv.studies.executors.engines import EngineOptions, check_stack

DEFAULT_ROOT = Path("runs")
DEFAULT_BUDGET = "24"
Json = Annotated[
    bool,
    conf.arg(help="Print JSON objects for programs on standard output, one a line, and all else on standard error."),
]


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Train and measure the runs that studies still lack, draw the figures and write the report."""

    studies: conf.Positional[tuple[str, ...]] = ()
    """The studies: the paper's, which are fig1, fig2, fig3, fig4, fig7, fig8, fig12 and fig13, and prefix; all of them
    by default."""
    scale: str = "quick"
    """The size of networks and data: quick (minutes), small (hours), desk (days) or paper (GPUs)."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""
    engine: conf.OmitArgPrefixes[EngineOptions] = field(default_factory=EngineOptions)
    list: bool = False
    """Show the studies and scales with their cost, and stop."""
    dry_run: bool = False
    """Show every run with its cost on this machine and on a GPU, and stop."""
    decide: str | None = None
    """Add seeds until a claim is decided wherever it can be: its number, or a part of it, as 4 or 4a."""
    budget: str = DEFAULT_BUDGET
    """For --decide: the largest number of seeds, or the core hours that this command may take, as 24 or 10h."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """List studies, show their runs, or train, measure and report."""
        from iterconv.cli.studies import dry_run, list_studies, reproduce

        if self.decide is None and self.budget != DEFAULT_BUDGET:
            raise InputError(f"--budget {self.budget} is for --decide; leave it out")
        if self.decide is not None:
            return self._decide(self.decide, stop)
        if self.list and (self.studies or self.scale != "quick" or self.dry_run):
            raise InputError("--list shows all studies and scales; use --dry-run without --list for some of them")
        if self.list:
            return list_studies(self.out, self.engine)
        if self.dry_run:
            return dry_run(self.studies, self.scale, self.out, self.engine)
        return reproduce(self.studies, self.scale, self.out, self.engine, stop)

    def _decide(self, claim: str, stop: threading.Event) -> int:
        from iterconv.cli.claims import decide

        if self.list:
            raise InputError("--list shows all studies and scales; leave out --decide")
        places = (self.scale, self.out, self.engine)
        return decide(claim, self.studies, self.budget, *places, stop, dry=self.dry_run)


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
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Bring the runs to their end."""
        from iterconv.cli.sweeps import sweep

        return sweep(self.file, self.out, self.engine, self.dry_run, stop)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show the state of all runs of reproduce and sweep in a folder, also while others are at work there."""

    folder: conf.Positional[Path] = DEFAULT_ROOT
    """The folder of runs."""
    watch: bool = False
    """Show it anew every two seconds until no run is at work."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Show the states."""
        from iterconv.cli.sweeps import status

        return status(self.folder, self.watch, self.json)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report again: from the runs that are finished, with their figures, or from a folder of tables."""

    studies_or_folder: conf.Positional[tuple[str, ...]] = ()
    """The studies: the paper's, which are fig1, fig2, fig3, fig4, fig7, fig8, fig12 and fig13, and prefix; all of them
    by default. Or a folder of tables or of runs, as results/small or runs/report-quick/tables."""
    scale: str = "quick"
    """The scale: quick, small, desk or paper."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""
    stack: int = 1
    """The option --stack with which the runs were trained."""
    html: Path | None = None
    """The file of the report on a folder of tables; report.html in that folder by default."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Write the report from the finished runs, or from tables."""
        from iterconv.cli.studies import report_on_folder, write_report
        from iterconv.studies.catalogue import STUDIES

        check_stack(self.stack)
        folder = Path(self.studies_or_folder[0]) if len(self.studies_or_folder) == 1 else None
        if folder and str(folder) not in STUDIES and (folder.is_dir() or len(folder.parts) > 1):
            if (self.scale, self.out, self.stack) != ("quick", DEFAULT_ROOT, 1):
                raise InputError(f"{folder} is a folder of tables; --scale, --out and --stack are for finished runs")
            return report_on_folder(folder, self.html)
        if self.html:
            raise InputError("--html is for a folder of tables; the report on finished runs goes below --out")
        return write_report(self.studies_or_folder, self.scale, self.out, self.stack)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Judge each part of the paper's 17 claims in each setting: supported, contradicted or undecided."""

    tables: conf.Positional[Path | None] = None
    """A folder of tables or of runs, as results/small or runs; by default the finished runs of --scale."""
    scale: str = "quick"
    """The scale: quick, small, desk or paper."""
    out: Path = DEFAULT_ROOT
    """The folder of runs and reports."""
    stack: int = 1
    """The option --stack with which the runs were trained."""
    picture: Path | None = None
    """The file of a picture of all verdicts (.png, .svg or .pdf)."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Print every verdict."""
        from iterconv.cli.claims import print_claims

        if self.tables is not None and (self.scale, self.out, self.stack) != ("quick", DEFAULT_ROOT, 1):
            raise InputError(f"{self.tables} is a folder of results; --scale, --out and --stack are for finished runs")
        check_stack(self.stack)
        return print_claims(self.tables, self.scale, self.out, self.stack, self.picture)
