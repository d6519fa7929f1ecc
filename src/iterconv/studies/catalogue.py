"""The studies as tables of configurations, at several scales. Source: Lippl et al., Sec. 3.3, 5, C, E.

Nothing here imports torch, so that studies can be listed at once.
"""

from dataclasses import dataclass, replace
from itertools import product

from iterconv.errors import InputError
from iterconv.options import Init, Residual
from iterconv.training.config import RunConfig

CONDITIONS: tuple[tuple[Init, float], ...] = (
    ("independent", 0.0),
    ("recurrent", 0.0),
    ("recurrent", 0.5),
    ("recurrent", 0.9),
    ("recurrent", 1.0),
)
"""Initialisation and coupling strength of the paper's five conditions."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A kind of network that a study trains in several widths."""

    label: str
    base: RunConfig
    widths: tuple[int, ...]
    residuals: tuple[Residual, ...] = ("ordinary", "improper", "proper")
    """For which residual functions this kind is trained at all."""

    def runs(
        self, residual: Residual, seeds: tuple[int, ...], conditions: tuple[tuple[Init, float], ...]
    ) -> list[RunConfig]:
        """Every width in every condition with every seed."""
        if residual not in self.residuals:
            return []
        return [
            replace(self.base, width=width, residual=residual, init=init, coupling=coupling, seed=seed)
            for width, (init, coupling), seed in product(self.widths, conditions, seeds)
        ]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a study is."""

    name: str
    summary: str
    architectures: tuple[Architecture, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One of the paper's studies."""

    name: str
    title: str
    residual: Residual
    conditions: tuple[tuple[Init, float], ...] = CONDITIONS

    def runs(self, scale: Scale) -> list[RunConfig]:
        """The networks that this study needs at a scale."""
        return [
            run
            for architecture in scale.architectures
            for run in architecture.runs(self.residual, scale.seeds, self.conditions)
        ]


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="fig2",
            title="How iterative and convergent are ordinary ResNets?",
            residual="ordinary",
            conditions=CONDITIONS[:1],
        ),
        Study(name="fig3", title="Does gradient coupling make them more so, and does it help?", residual="ordinary"),
        Study(name="fig4", title="The same for improperly convergent ResNets", residual="improper"),
        Study(name="fig7", title="Effective parameter counts", residual="ordinary"),
        Study(name="fig12", title="The same for properly convergent ResNets", residual="proper"),
    )
}

_CIFAR = RunConfig(data="cifar10", stages=3)

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="quick",
            summary="UCI digits, minutes on two cores",
            architectures=(
                Architecture(
                    label="three stages of 5 blocks",
                    base=RunConfig(data="digits", stages=3, blocks=5, epochs=8, batch_size=64),
                    widths=(8,),
                ),
                Architecture(
                    label="one stage of 16 blocks",
                    base=RunConfig(data="digits", stages=1, blocks=16, epochs=12),
                    widths=(8, 16),
                    residuals=("ordinary",),
                ),
            ),
            seeds=(0, 1, 2),
        ),
        Scale(
            name="small",
            summary="8,192 images of CIFAR-10, a night on two cores",
            architectures=(
                Architecture(
                    label="three stages of 5 blocks",
                    base=replace(_CIFAR, blocks=5, epochs=40, samples=8192),
                    widths=(8, 16),
                ),
            ),
            seeds=(0, 1, 2),
        ),
        Scale(
            name="paper",
            summary="CIFAR-10 as in the paper: 16 blocks, four widths, six seeds, 400 epochs; GPUs",
            architectures=(
                Architecture(
                    label="three stages of 16 blocks", base=replace(_CIFAR, blocks=16), widths=(8, 16, 32, 64)
                ),
            ),
            seeds=(0, 1, 2, 3, 4, 5),
        ),
    )
}


def find_studies(names: tuple[str, ...]) -> list[Study]:
    """Studies by name; all of them for no name.

    Args:
        names: Such as ``("fig2", "fig3")``.

    Returns:
        The studies, in the paper's order.

    Raises:
        InputError: If a name is unknown.
    """
    for name in names:
        if name not in STUDIES:
            raise InputError(f"there is no study {name!r}; the studies are {', '.join(STUDIES)}")
    return [study for name, study in STUDIES.items() if not names or name in names]


def find_scale(name: str) -> Scale:
    """A scale by name.

    Args:
        name: quick, small or paper.

    Returns:
        The scale.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in SCALES:
        raise InputError(f"there is no scale {name!r}; the scales are {', '.join(SCALES)}")
    return SCALES[name]


_SIZES = {"digits": (1293, 8, 1), "mnist": (54000, 28, 1), "cifar10": (45000, 32, 3), "cifar100": (45000, 32, 3)}


def estimated_seconds(config: RunConfig) -> float:
    """A rough time for a run on one core of the reference machine (two cores, no GPU).

    Fitted to measured training steps: 0.2 ms for each convolution of a step, and 1.55 billion
    multiply-accumulations a second for each channel up to 32 (narrow convolutions leave vector units idle);
    the constraint takes 0.4 times as long again.

    Args:
        config: A run on a data set known by name.

    Returns:
        Seconds.
    """
    run = config.resolved()
    assert run.stages is not None and run.epochs is not None and run.batch_size is not None
    samples, size, channels = _SIZES.get(run.data, _SIZES["cifar10"])
    samples = min(samples, run.samples or samples)
    convolutions = 2 * run.blocks + 2  # of each stage, downsampling included
    # Halving the map and doubling the channels leaves each stage the same work.
    work = 3 * run.batch_size * (convolutions * 9 * run.width**2 + 9 * channels * run.width) * size**2
    step = sum(0.2e-3 * convolutions + work / (1.55e9 * min(run.width * 2**stage, 32)) for stage in range(run.stages))
    constraint = 1.0 if run.residual == "ordinary" else 1.4
    return 3.0 + constraint * step * run.epochs * -(-samples // run.batch_size)
