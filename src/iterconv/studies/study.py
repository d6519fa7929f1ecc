"""Studies: networks that are trained on data sets, at several scales. Source: Lippl et al., Sec. 3.3, 5, C to F."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from iterconv.options import Init, Residual
from iterconv.studies.jobs import StudyJob, TrainingRun
from iterconv.studies.stacks import for_stacks
from iterconv.studies.toy_runs import ToyRun, toy_runs
from iterconv.studies.where import Where
from iterconv.training.config import RunConfig

Condition = tuple[Init, float]
"""Initialisation and coupling strength."""

CONDITIONS: tuple[Condition, ...] = (
    ("independent", 0.0),
    ("recurrent", 0.0),
    ("recurrent", 0.5),
    ("recurrent", 0.9),
    ("recurrent", 1.0),
)
"""The paper's five conditions."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of the studies. Each `Study` says which networks it trains at which scale."""

    name: str
    summary: str
    in_order: bool = False
    """True if runs are trained in the order of `unique_jobs`, so that what is finished at any time can be compared;
    otherwise the costliest runs go first."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A kind of network on a data set, in several widths and with several seeds."""

    label: str
    base: RunConfig
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...] = CONDITIONS
    """Other conditions than these are not trained in this setting."""
    order: int = 0
    """Settings of a lower number are trained first, and those of equal numbers in the order of the studies."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change to the network or its coupling, and the conditions in which the changed network is trained."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of `RunConfig` with their values."""
    late: bool = False
    """True if the first blocks of each stage stay uncoupled: 5 of 16, as in the paper, or as large a share."""
    conditions: tuple[Condition, ...] = CONDITIONS

    def runs(self, setting: Setting) -> list[RunConfig]:
        """Every width in every condition with every seed."""
        changes = dict(self.changes)
        if self.late:
            changes["first_coupled"] = round(setting.base.blocks * 5 / 16)
        conditions = [condition for condition in self.conditions if condition in setting.conditions]
        return [
            replace(setting.base, width=width, init=init, coupling=coupling, seed=seed, **changes)
            for width, (init, coupling), seed in product(setting.widths, conditions, setting.seeds)
        ]


@dataclass(frozen=True, kw_only=True)
class OtherJobs:
    """Networks in one setting that are trained otherwise than by a `RunConfig`, with several seeds."""

    where: Where
    make: Callable[[Iterable[int]], Sequence[StudyJob]]
    """Lists the jobs of some seeds, in the order in which they are done."""
    seeds: int
    """The number of seeds."""

    def jobs(self) -> Sequence[StudyJob]:
        """The jobs of all seeds."""
        return self.make(range(self.seeds))


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and the networks that are trained for it at each scale: every variant in every setting."""

    name: str
    title: str
    settings: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    """The settings by the name of the scale; at a scale that is not named, the study trains nothing."""
    variants: tuple[Variant, ...] = (Variant(),)
    """The first one is what the study is about; others are trained for comparison."""
    toy_seeds: Mapping[str, int] = field(default_factory=dict)
    """The number of seeds of the toy networks, by the name of the scale; studies without toy networks name none."""
    jobs: Mapping[str, OtherJobs] = field(default_factory=dict)
    """Networks of another kind, by the name of the scale."""
    stack: int = 1
    """The size of the stacks in which runs are trained where that pays, see `iterconv.studies.stacks`."""

    @property
    def residual(self) -> Residual:
        """The residual functions that the study is about."""
        return self.variants[0].changes.get("residual", "ordinary")

    def trains_at(self, scale: Scale) -> bool:
        """True if there is something to train at a scale."""
        return any(scale.name in kinds for kinds in (self.settings, self.toy_seeds, self.jobs))

    def settings_at(self, scale: Scale) -> tuple[Setting, ...]:
        """The settings that this study trains at a scale."""
        return self.settings.get(scale.name, ())

    def setting_runs(self, setting: Setting) -> list[RunConfig]:
        """The networks that this study needs of one setting."""
        runs = [run for variant in self.variants for run in variant.runs(setting)]
        return [for_stacks(run, self.stack) for run in runs] if self.stack > 1 else runs

    def runs(self, scale: Scale) -> list[RunConfig]:
        """The residual networks that this study needs at a scale."""
        return [run for setting in self.settings_at(scale) for run in self.setting_runs(setting)]

    def others(self, scale: Scale) -> Sequence[StudyJob]:
        """The networks of another kind that this study needs at a scale."""
        return self.jobs[scale.name].jobs() if scale.name in self.jobs else ()

    def toys(self, scale: Scale) -> list[ToyRun]:
        """The toy networks that this study needs at a scale."""
        seeds = self.toy_seeds.get(scale.name, 0)
        return toy_runs(range(seeds)) if seeds else []


def command_of(studies: Sequence[Study], scale: Scale) -> str:
    """Write the command that trains what studies need at a scale."""
    stack = f" --stack {studies[0].stack}" if studies[0].stack > 1 else ""
    return f"iterconv reproduce {' '.join(study.name for study in studies)} --scale {scale.name}{stack}"


def unique_jobs(studies: list[Study], scale: Scale) -> list[StudyJob]:
    """List what studies need at a scale; a network that several studies need is there once.

    Args:
        studies: The studies.
        scale: Their scale.

    Returns:
        Toy networks first, then the settings in the order of `Setting.order` and, where it is equal, of the studies.
        Within a setting, every condition of one seed comes before the next seed, so that all conditions grow evenly.
        Networks of other kinds come last.
    """
    jobs: list[StudyJob] = [toy for study in studies for toy in study.toys(scale)]
    settings = dict.fromkeys(setting for study in studies for setting in study.settings_at(scale))
    for setting in sorted(settings, key=lambda setting: setting.order):
        sharing = [study for study in studies if setting in study.settings_at(scale)]
        runs = [run for study in sharing for run in study.setting_runs(setting)]
        jobs += [TrainingRun(run) for run in sorted(runs, key=lambda run: run.seed)]
    jobs += [job for study in studies for job in study.others(scale)]
    return list({job.name: job for job in jobs}.values())
