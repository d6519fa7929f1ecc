"""What a run is: its configuration, the paper's recipes, and the name that follows from both.

Nothing here imports torch, so that the command line can show its help at once.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import PurePath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from iterconv.errors import InputError, OptionError
from iterconv.options import Init, Kernel, Residual, Selection


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one data set is trained on; the learning rate is divided at half and three quarters of the epochs."""

    stages: int
    epochs: int
    lr: float
    lr_divisor: float
    batch_size: int = 128
    augment: bool = False


RECIPES = {
    "cifar10": Recipe(stages=3, epochs=400, lr=0.1, lr_divisor=10.0, augment=True),
    "cifar100": Recipe(stages=3, epochs=200, lr=0.1, lr_divisor=10.0, augment=True),
    "mnist": Recipe(stages=1, epochs=400, lr=0.025, lr_divisor=2.5),
    **{f"digitclutter-{n}": Recipe(stages=3, epochs=400, lr=0.05, lr_divisor=5.0) for n in (3, 4, 5)},
    "digits": Recipe(stages=1, epochs=30, lr=0.1, lr_divisor=10.0, batch_size=32),
}
"""Source: Lippl et al., Sec. A.4. Departure: of the two schedules that the text gives Digitclutter, this is the one
with 400 epochs; the other is CIFAR-100's: epochs 200, lr 0.1, lr_divisor 10. Choice: batch 128 and the CIFAR
augmentation; ``digits`` (UCI) is ours throughout."""

FLOAT32_MOST = 3.4e38
"""What optimizers and norms are given has to be a number of 32 bits."""

RANGES: dict[str, tuple[float, float]] = {
    "samples": (1, 10**12),
    "evaluation_samples": (1, 10**12),
    "width": (1, 65_536),
    "blocks": (1, 10_000),
    "stages": (1, 16),
    "coupling": (0, 1),
    "first_coupled": (0, 10_000),
    "epochs": (1, 10**6),
    "batch_size": (2, 10**9),
    "momentum": (0, 1),
    "weight_decay": (0, FLOAT32_MOST),
    "seed": (0, 2**32 - 1),  # combined with the epoch's number, it has to fit torch's generators
    "threads": (1, 1024),
}
"""Least and most of each field, generous: what is beyond is a slip, or a damaged file."""

OTHER_DATA = Recipe(stages=3, epochs=200, lr=0.1, lr_divisor=10.0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One network to train. What is left at None follows the recipe of the data set (in Python: RECIPES)."""

    data: str = "digits"
    """digits, mnist, cifar10, cifar100, digitclutter-3 to -5, a folder, a Parquet file, a hub name, or a .safetensors
    file that iterconv data digitclutter made. A run is known by this name, not by what is behind it: changed images
    want another name or another --out."""
    samples: int | None = None
    """Train on this many images only, equally many of each class; on all by default."""
    evaluation_samples: int | None = None
    """Validate and test on this many images each, at most; on all by default."""
    width: int = 16
    """Channels of the first stage; doubled at each further one."""
    blocks: int = 16
    """Residual blocks in each stage."""
    stages: int | None = None
    """Number of stages; each has maps of half the height and width of the one before. By default the recipe's."""
    residual: Residual = "ordinary"
    """ordinary; improper (ICR) or proper (PCR): with the Lipschitz constraint."""
    lipschitz: float = 0.95
    """mu, the bound of the constrained residual functions."""
    init: Init | None = None
    """recurrent: all blocks of a stage start with equal weights (the default with coupling); independent: each block
    starts with weights of its own (the default without)."""
    norm_scale: float = 1.0
    """Initial scale of the batch norms; the paper's variant is 0.1."""
    coupling: float = 0.0
    """Strength of the soft gradient coupling, 0 (ordinary) to 1 (weights tied)."""
    kernel: Kernel = "uniform"
    """How coupling falls off with the distance between blocks."""
    first_coupled: int = 0
    """The first coupled block of each stage; the paper's late coupling is 5."""
    epochs: int | None = None
    """Passes through the training data. By default the recipe's."""
    batch_size: int | None = None
    """Training images a step. By default the recipe's."""
    lr: float | None = None
    """Initial learning rate. By default the recipe's."""
    lr_divisor: float | None = None
    """What divides the learning rate at half and at three quarters of the epochs. By default the recipe's."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of SGD."""
    augment: bool | None = None
    """Whether to train on random crops (padded by 4 pixels) and flips. By default as the recipe has it."""
    selection: Selection = "validation"
    """Which split chooses the best epoch."""
    seed: int = 0
    """Initial weights, the order of the data and the augmentation are drawn from it."""
    threads: int = 1
    """CPU threads of training; results differ in their bits between numbers of threads."""

    def __post_init__(self) -> None:
        """Check every field by itself; what depends on the data is checked when it is loaded."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not _is_of_type(value, field.type):
                raise OptionError(field.name, value, "is of the wrong kind; see iterconv train --help")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise OptionError(name, value, f"is out of range; use {least} to {most}")
        for name in ("lipschitz", "norm_scale", "lr", "lr_divisor"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= FLOAT32_MOST:
                raise OptionError(name, value, f"is out of range; use a number above 0 and not above {FLOAT32_MOST}")
        recipe = RECIPES.get(self.data, OTHER_DATA)
        lr, divisor = self.lr or recipe.lr, self.lr_divisor or recipe.lr_divisor
        if lr / divisor / divisor > FLOAT32_MOST:
            problem = f"is too small; it takes the learning rate beyond {FLOAT32_MOST}"
            raise OptionError("lr_divisor", divisor, problem)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise OptionError(name, value, f"is unknown; use one of {', '.join(choices)}")
        if self.coupling > 0 and not self.tieable:
            problem = f"leaves fewer than two of {self.blocks} blocks to couple"
            remedy = "use fewer uncoupled blocks, more blocks, or no coupling"
            raise OptionError("first_coupled", self.first_coupled, f"{problem}; {remedy}")

    @property
    def tieable(self) -> bool:
        """Whether stages have blocks, from the first coupled one on, that could share their weights."""
        return self.blocks - self.first_coupled >= 2

    def resolved(self) -> "RunConfig":
        """The same run with the recipe's values where fields are None."""
        recipe = asdict(RECIPES.get(self.data, OTHER_DATA))
        recipe["init"] = "recurrent" if self.coupling > 0 else "independent"
        return replace(self, **{name: value for name, value in recipe.items() if getattr(self, name) is None})

    def learning_rate(self, epoch: int) -> float:
        """The learning rate in an epoch, from 0, of the resolved run."""
        run = self.resolved()
        assert run.lr is not None and run.lr_divisor is not None and run.epochs is not None
        passed = sum(epoch >= run.epochs * part for part in (0.5, 0.75))
        return float(run.lr / run.lr_divisor**passed)

    def to_dict(self) -> dict[str, Any]:
        """All fields of the resolved run, as JSON has them; 1 and 1.0 are the same strength.

        One thread, which is all that there was at first, is left out, so that hashes stay what they were.
        """
        values = asdict(self.resolved())
        if self.threads == 1:
            del values["threads"]
        return {name: float(value) if name in _FLOATS else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """A run from ``to_dict``.

        Args:
            values: Fields by name.

        Returns:
            The run.

        Raises:
            InputError: If a field is unknown or its value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError(f"{unknown[0]!r} is no field of a run; the fields are {', '.join(known)}")
        return cls(**values)

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits that identify the resolved run."""
        return _hash(self)

    @property
    def name(self) -> str:
        """A readable name that ends in the hash; what names the run's folder."""
        run = self.resolved()
        start = "rec" if run.init == "recurrent" else "ind"
        data = PurePath(run.data).name
        return (
            f"{data}-{run.residual}-s{run.stages}-b{run.blocks}-w{run.width}"
            f"-{start}-c{run.coupling:g}-seed{run.seed}-{self.hash}"
        )


@cache  # Studies ask for the names of thousands of runs again and again.
def _hash(run: RunConfig) -> str:
    text = json.dumps(run.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_of_type(value: Any, hint: Any) -> bool:
    options = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    if isinstance(value, bool):
        return bool in options
    if value is None:
        return type(None) in options
    if isinstance(value, int):
        return int in options or float in options
    # Any string may stand for a choice: which ones there are is told by name.
    return type(value) in options or (isinstance(value, str) and any(get_origin(o) is Literal for o in options))


_FLOATS = ("lipschitz", "norm_scale", "coupling", "lr", "lr_divisor", "momentum", "weight_decay")
_CHOICES = {
    "residual": get_args(Residual),
    "init": get_args(Init),
    "kernel": get_args(Kernel),
    "selection": get_args(Selection),
}
