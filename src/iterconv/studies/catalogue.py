"""The paper's studies and the scales at which they are redone. Source: Lippl et al., Sec. 3.3, 5, C to F."""

from iterconv.errors import InputError
from iterconv.options import Residual
from iterconv.registry import Registry
from iterconv.studies import settings
from iterconv.studies.prefix_runs import DESK_PREFIX, QUICK_PREFIX
from iterconv.studies.study import CONDITIONS, Scale, Study, Variant

COUPLED = CONDITIONS[2:]

SCALES = Registry(
    Scale,
    (
        Scale(name="quick", summary="UCI digits, minutes on two cores"),
        Scale(name="small", summary="thousands of images of CIFAR-10 and Digitclutter, some hours on two cores"),
        Scale(
            name="desk",
            summary="the paper's networks with shortened schedules, days on two cores",
            in_order=True,
        ),
        Scale(name="paper", summary="as in the paper: 16 blocks, four widths, six seeds, all epochs; GPUs"),
    ),
)

_CONSTRAINED = {
    "quick": (settings.QUICK_DIGITS,),
    "small": (settings.SMALL_CIFAR_ONE_WIDTH,),
    "desk": (settings.DESK_DIGITS_CONSTRAINED, settings.DESK_MNIST_CONSTRAINED, settings.DESK_CIFAR_CONSTRAINED),
    "paper": (settings.PAPER_CIFAR,),
}
_QUICK = (settings.QUICK_DIGITS, settings.QUICK_DEEP_DIGITS, settings.QUICK_DEEP_DIGITS_WIDE)
_DESK = (
    settings.DESK_DIGITS,
    settings.DESK_MNIST,
    settings.DESK_MNIST_WIDE,
    settings.DESK_CIFAR,
    settings.DESK_CIFAR_WIDE,
)


def _constrained(residual: Residual) -> tuple[Variant, ...]:
    return (Variant(changes={"residual": residual}), Variant())


STUDIES = Registry(
    Study,
    (
        Study(
            name="fig1",
            title="A toy inverse problem: an iterative algorithm and trained networks",
            toy_seeds={"quick": 3, "small": 10, "desk": 10, "paper": 20},
        ),
        Study(
            name="fig2",
            title="How iterative and convergent are ordinary ResNets?",
            settings={
                "quick": _QUICK,
                "small": (settings.SMALL_CIFAR,),
                "desk": _DESK,
                "paper": (settings.PAPER_CIFAR_ONE_WIDTH,),
            },
            variants=(Variant(conditions=CONDITIONS[:1]),),
        ),
        Study(
            name="fig3",
            title="Does gradient coupling make them more so, and does it help?",
            settings={
                "quick": _QUICK,
                "small": (settings.SMALL_CIFAR, settings.SMALL_CLUTTER),
                "desk": _DESK,
                "paper": (settings.PAPER_CIFAR, settings.PAPER_CLUTTER),
            },
        ),
        Study(
            name="fig4",
            title="The same for improperly convergent ResNets",
            settings=_CONSTRAINED,
            variants=_constrained("improper"),
        ),
        Study(
            name="fig7",
            title="Effective parameter counts",
            settings={
                "quick": _QUICK,
                "small": (settings.SMALL_CIFAR,),
                "desk": _DESK,
                "paper": (settings.PAPER_CIFAR,),
            },
        ),
        Study(
            name="fig8",
            title="Variants of coupling and of the initial batch norm",
            settings={
                "quick": (settings.QUICK_DIGITS_TWO_SEEDS,),
                "small": (settings.SMALL_CIFAR_ONE_WIDTH,),
                "desk": (settings.DESK_DIGITS_VARIANTS, settings.DESK_MNIST_VARIANTS, settings.DESK_CIFAR_VARIANTS),
                "paper": (settings.PAPER_CIFAR,),
            },
            # Choice: at strength 1 the normalised triangular kernel is the uniform one, so it is not trained twice.
            variants=(
                Variant(),
                Variant(changes={"norm_scale": 0.1}),
                Variant(changes={"kernel": "triangular"}, conditions=COUPLED[:-1]),
                Variant(late=True, conditions=COUPLED),
                Variant(changes={"norm_scale": 0.1}, late=True, conditions=COUPLED),
            ),
        ),
        Study(
            name="fig12",
            title="The same for properly convergent ResNets",
            settings=_CONSTRAINED,
            variants=_constrained("proper"),
        ),
        Study(
            name="fig13",
            title="Other data sets, and few samples",
            settings={
                "quick": settings.QUICK_SETS,
                "small": settings.SMALL_SETS,
                "desk": (*_DESK, settings.DESK_FEW_DIGITS, *settings.DESK_SETS),
                "paper": settings.PAPER_SETS,
            },
        ),
        Study(
            name="prefix",
            title="Prefix sums: a task for which convergence is the right bias",
            jobs={"quick": QUICK_PREFIX, "desk": DESK_PREFIX},
        ),
    ),
)
"""All studies by name, the paper's first and in its order; ``STUDIES.register`` adds one of yours."""


def find_studies(names: tuple[str, ...], scale: Scale | None = None) -> list[Study]:
    """Find studies by name; all of them for no name.

    Args:
        names: Names such as ``("fig2", "fig3")``.
        scale: If given, the scale at which each named study has to train something.

    Returns:
        The studies, in the paper's order.

    Raises:
        InputError: If a name is unknown, or the study of that name trains nothing at the scale.
    """
    for name in names:
        study = STUDIES.find(name)
        if scale is not None and not study.trains_at(scale):
            trained = ", ".join(other for other, study in STUDIES.items() if study.trains_at(scale))
            raise InputError(f"{name} trains nothing at the scale {scale.name!r}; use {trained}")
    return [study for name, study in STUDIES.items() if not names or name in names]


def find_scale(name: str) -> Scale:
    """Find a scale by name.

    Args:
        name: quick, small, desk or paper.

    Returns:
        The scale.

    Raises:
        InputError: If the name is unknown.
    """
    return SCALES.find(name)
