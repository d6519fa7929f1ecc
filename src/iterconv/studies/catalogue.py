"""The studies as tables of configurations, at several scales. Source: Lippl et al., Sec. 3.3, 5, C to F.

Nothing here imports torch, so that studies can be listed at once.
"""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from iterconv.errors import InputError
from iterconv.options import Init, Residual
from iterconv.studies.toy import ToyRun, toy_runs
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
COUPLED = CONDITIONS[2:]

Run = RunConfig | ToyRun


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A kind of network on a data set, which studies train in several widths."""

    label: str
    base: RunConfig
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    studies: tuple[str, ...]
    """Names of the studies that train it."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the studies are."""

    name: str
    summary: str
    settings: tuple[Setting, ...]
    toy_seeds: tuple[int, ...] = (0, 1, 2)
    """Of the toy networks, which take seconds at any scale."""
    in_order: bool = False
    """Whether runs are trained in the order of ``unique_runs``, so that what is finished at any time can be compared;
    otherwise the costliest runs go first."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change to the network or its coupling, and in which conditions it is trained."""

    changes: dict[str, Any] = field(default_factory=dict)
    late: bool = False
    """Whether the first blocks of each stage stay uncoupled: 5 of 16, as in the paper, or as large a share."""
    conditions: tuple[Condition, ...] = CONDITIONS

    def runs(self, setting: Setting) -> list[RunConfig]:
        """Every width in every condition with every seed."""
        changes = dict(self.changes)
        if self.late:
            changes["first_coupled"] = round(setting.base.blocks * 5 / 16)
        return [
            replace(setting.base, width=width, init=init, coupling=coupling, seed=seed, **changes)
            for width, (init, coupling), seed in product(setting.widths, self.conditions, setting.seeds)
        ]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One of the paper's studies."""

    name: str
    title: str
    variants: tuple[Variant, ...] = (Variant(),)
    toy: bool = False
    """Whether it trains the toy networks."""

    @property
    def residual(self) -> Residual:
        """The residual functions that the study is about; others are trained for comparison."""
        return self.variants[0].changes.get("residual", "ordinary") if self.variants else "ordinary"

    def settings(self, scale: Scale) -> list[Setting]:
        """The settings that this study trains at a scale."""
        return [setting for setting in scale.settings if self.name in setting.studies]

    def setting_runs(self, setting: Setting) -> list[RunConfig]:
        """The networks that this study needs of one setting."""
        return [run for variant in self.variants for run in variant.runs(setting)]

    def runs(self, scale: Scale) -> list[Run]:
        """The networks that this study needs at a scale."""
        toys = toy_runs(scale.toy_seeds) if self.toy else []
        return [*toys, *(run for setting in self.settings(scale) for run in self.setting_runs(setting))]


def _constrained(residual: Residual) -> tuple[Variant, ...]:
    return (Variant(changes={"residual": residual}), Variant())


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="fig1",
            title="A toy inverse problem: an iterative algorithm and trained networks",
            variants=(),
            toy=True,
        ),
        Study(
            name="fig2",
            title="How iterative and convergent are ordinary ResNets?",
            variants=(Variant(conditions=CONDITIONS[:1]),),
        ),
        Study(name="fig3", title="Does gradient coupling make them more so, and does it help?"),
        Study(name="fig4", title="The same for improperly convergent ResNets", variants=_constrained("improper")),
        Study(name="fig7", title="Effective parameter counts"),
        Study(
            name="fig8",
            title="Variants of coupling and of the initial batch norm",
            # Choice: at strength 1 the normalised triangular kernel is the uniform one, so it is not trained twice.
            variants=(
                Variant(),
                Variant(changes={"norm_scale": 0.1}),
                Variant(changes={"kernel": "triangular"}, conditions=COUPLED[:-1]),
                Variant(late=True, conditions=COUPLED),
                Variant(changes={"norm_scale": 0.1}, late=True, conditions=COUPLED),
            ),
        ),
        Study(name="fig12", title="The same for properly convergent ResNets", variants=_constrained("proper")),
        Study(name="fig13", title="Other data sets, and few samples"),
    )
}

_CIFAR = RunConfig(data="cifar10", stages=3)
_SMALL = RunConfig(data="cifar10", stages=3, blocks=5, samples=4096, evaluation_samples=1000, epochs=6, batch_size=32)
_SMALL_CLUTTER = replace(_SMALL, data="digitclutter-3", samples=8192, epochs=4, lr=0.1, lr_divisor=10.0)
_THREE_DIGITS = RunConfig(data="digits", stages=3, blocks=5, epochs=8, batch_size=64)
_UNCONSTRAINED = ("fig2", "fig3", "fig7")
_DESK_MNIST = RunConfig(data="mnist", stages=1, blocks=16, epochs=10, lr=0.1, lr_divisor=10.0)
"""Choice: one shape of learning rate for all of ``desk``: 0.1, divided by 10 at half and at three quarters."""
_WIDTHS = (8, 16, 32, 64)

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="quick",
            summary="UCI digits, minutes on two cores",
            settings=(
                Setting(
                    label="UCI digits, three stages of 5 blocks",
                    base=_THREE_DIGITS,
                    widths=(8,),
                    seeds=(0, 1, 2),
                    studies=(*_UNCONSTRAINED, "fig4", "fig12"),
                ),
                Setting(
                    label="UCI digits, three stages of 5 blocks",
                    base=_THREE_DIGITS,
                    widths=(8,),
                    seeds=(0, 1),
                    studies=("fig8",),
                ),
                Setting(
                    label="UCI digits, one stage of 16 blocks",
                    base=RunConfig(data="digits", stages=1, blocks=16, epochs=10),
                    widths=(8, 16),
                    seeds=(0, 1, 2),
                    studies=_UNCONSTRAINED,
                ),
                Setting(
                    label="200 samples of UCI digits, three stages of 5 blocks",
                    base=replace(_THREE_DIGITS, samples=200, epochs=40),
                    widths=(8,),
                    seeds=(0, 1),
                    studies=("fig13",),
                ),
                Setting(
                    label="2,048 samples of MNIST, one stage of 5 blocks",
                    base=RunConfig(
                        data="mnist", blocks=5, samples=2048, evaluation_samples=500, epochs=4, batch_size=32
                    ),
                    widths=(8,),
                    seeds=(0, 1),
                    studies=("fig13",),
                ),
            ),
        ),
        Scale(
            name="small",
            summary="thousands of images of CIFAR-10 and Digitclutter, some hours on two cores",
            settings=(
                Setting(
                    label="CIFAR-10 (4,096 samples), three stages of 5 blocks",
                    base=_SMALL,
                    widths=(8, 16),
                    seeds=(0, 1, 2),
                    studies=_UNCONSTRAINED,
                ),
                Setting(
                    label="CIFAR-10 (4,096 samples), three stages of 5 blocks",
                    base=_SMALL,
                    widths=(8,),
                    seeds=(0, 1, 2),
                    studies=("fig4", "fig8", "fig12"),
                ),
                # Choice: three digits, as five are hardly learnt in so few steps (error 0.38 where chance is 0.50).
                Setting(
                    label="Digitclutter-3 (8,192 samples), three stages of 5 blocks",
                    base=_SMALL_CLUTTER,
                    widths=(8,),
                    seeds=(0, 1, 2),
                    studies=("fig3", "fig13"),
                ),
                *(
                    Setting(label=label, base=base, widths=(8,), seeds=(0, 1), studies=("fig13",))
                    for label, base in {
                        "Digitclutter-5 (8,192 samples), three stages of 5 blocks": replace(
                            _SMALL_CLUTTER, data="digitclutter-5"
                        ),
                        "Digitclutter-4 (2,048 samples), three stages of 5 blocks": replace(
                            _SMALL_CLUTTER, data="digitclutter-4", samples=2048, epochs=16
                        ),
                        "CIFAR-100 (8,192 samples), three stages of 5 blocks": replace(
                            _SMALL, data="cifar100", samples=8192
                        ),
                        "CIFAR-10 (1,024 samples), three stages of 5 blocks": replace(_SMALL, samples=1024, epochs=24),
                        "MNIST (8,192 samples), one stage of 5 blocks": replace(
                            _SMALL, data="mnist", stages=1, samples=8192, epochs=4
                        ),
                    }.items()
                ),
            ),
            toy_seeds=tuple(range(10)),
        ),
        Scale(
            name="desk",
            summary="the paper's networks with shortened schedules, days on two cores",
            settings=tuple(
                Setting(
                    label="MNIST, one stage of 16 blocks",
                    base=_DESK_MNIST,
                    widths=(width,),
                    seeds=tuple(range(seeds)),
                    studies=(*_UNCONSTRAINED, "fig13"),
                )
                for width, seeds in ((8, 6), (16, 3))
            ),
            toy_seeds=tuple(range(10)),
            in_order=True,
        ),
        Scale(
            name="paper",
            summary="as in the paper: 16 blocks, four widths, six seeds, all epochs; GPUs",
            settings=tuple(
                Setting(label=label, base=base, widths=widths, seeds=tuple(range(6)), studies=studies)
                for label, base, widths, studies in (
                    ("CIFAR-10, three stages of 16 blocks", _CIFAR, (16,), ("fig2",)),
                    (
                        "CIFAR-10, three stages of 16 blocks",
                        _CIFAR,
                        _WIDTHS,
                        ("fig3", "fig4", "fig7", "fig8", "fig12"),
                    ),
                    ("Digitclutter-5", RunConfig(data="digitclutter-5"), _WIDTHS, ("fig3", "fig13")),
                    ("Digitclutter-3", RunConfig(data="digitclutter-3"), _WIDTHS, ("fig13",)),
                    ("Digitclutter-4 (8,192)", RunConfig(data="digitclutter-4", samples=8192), _WIDTHS, ("fig13",)),
                    ("CIFAR-100", RunConfig(data="cifar100"), _WIDTHS, ("fig13",)),
                    ("CIFAR-10 (2,048 samples)", replace(_CIFAR, samples=2048), _WIDTHS, ("fig13",)),
                    ("MNIST", RunConfig(data="mnist"), _WIDTHS, ("fig13",)),
                )
            ),
            toy_seeds=tuple(range(20)),
        ),
    )
}


def find_studies(names: tuple[str, ...], scale: Scale | None = None) -> list[Study]:
    """Studies by name; all of them for no name.

    Args:
        names: Such as ``("fig2", "fig3")``.
        scale: If given, the scale at which each named study has to train something.

    Returns:
        The studies, in the paper's order.

    Raises:
        InputError: If a name is unknown, or the study of that name trains nothing at the scale.
    """
    for name in names:
        if name not in STUDIES:
            raise InputError(f"there is no study {name!r}; the studies are {', '.join(STUDIES)}")
        if scale is not None and not STUDIES[name].runs(scale):
            trained = ", ".join(other for other, study in STUDIES.items() if study.runs(scale))
            raise InputError(f"{name} trains nothing at the scale {scale.name!r}; use {trained}")
    return [study for name, study in STUDIES.items() if not names or name in names]


def unique_runs(studies: list[Study], scale: Scale) -> list[Run]:
    """The runs that studies need at a scale; a run that several studies need is there once.

    Args:
        studies: The studies.
        scale: Their scale.

    Returns:
        Toy networks first, then the settings in their order; within a setting, every condition of one seed comes before
        the next seed, so that all conditions grow evenly.
    """
    toys: list[Run] = [run for study in studies if study.toy for run in toy_runs(scale.toy_seeds)]
    trained = [
        run
        for setting in scale.settings
        for run in sorted(
            (run for study in studies if study.name in setting.studies for run in study.setting_runs(setting)),
            key=lambda run: run.seed,
        )
    ]
    return list({run.name: run for run in [*toys, *trained]}.values())


def find_scale(name: str) -> Scale:
    """A scale by name.

    Args:
        name: quick, small, desk or paper.

    Returns:
        The scale.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in SCALES:
        raise InputError(f"there is no scale {name!r}; the scales are {', '.join(SCALES)}")
    return SCALES[name]
