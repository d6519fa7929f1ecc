"""The configuration of a run, and the name that follows from it.

Nothing here imports torch, so that the command line can show its help at once.
"""

import hashlib
import json
from copy import copy
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import PurePath
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from iterconv.data.known import recipe_of
from iterconv.errors import InputError, OptionError, check_choice, check_number, check_range
from iterconv.options import Init, KernelName, Residual, Selection, TrainingPrecision

FLOAT32_MOST = 3.4e38
"""The largest number that optimizers and norms take, as they compute with 32 bits."""

# The intervals are generous: a value outside is a slip, or of a damaged file.
_IMAGES = "[1, 1e12]"
_POSITIVE = f"(0, {FLOAT32_MOST}]"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One network to train. What is left at None follows the recipe of the data set."""

    data: str = "digits"
    """A data set that has a recipe (digits, mnist, ...), a folder, a Parquet file, a hub name, or a .safetensors file
    that iterconv data digitclutter made. A run is known by this name, not by what is behind it: changed images want
    another name or another --out."""
    samples: Annotated[int | None, _IMAGES] = None
    """Train on this many images only, equally many of each class; on all by default."""
    evaluation_samples: Annotated[int | None, _IMAGES] = None
    """Validate and test on this many images each, at most; on all by default."""
    width: Annotated[int, "[1, 65536]"] = 16
    """Channels of the first stage; doubled at each further one."""
    blocks: Annotated[int, "[1, 10000]"] = 16
    """Residual blocks in each stage."""
    stages: Annotated[int | None, "[1, 16]"] = None
    """Number of stages; each has maps of half the height and width of the one before. By default the recipe's."""
    residual: Residual = "ordinary"
    """ordinary; improper (ICR) or proper (PCR): with the Lipschitz constraint."""
    lipschitz: Annotated[float, _POSITIVE] = 0.95
    """mu, the bound of the constrained residual functions."""
    init: Init | None = None
    """recurrent: all blocks of a stage start with equal weights (the default with coupling); independent: each block
    starts with weights of its own (the default without)."""
    norm_scale: Annotated[float, _POSITIVE] = 1.0
    """Initial scale of the batch norms; the paper's variant is 0.1."""
    coupling: Annotated[float, "[0, 1]"] = 0.0
    """Strength of the soft gradient coupling, 0 (ordinary) to 1 (weights tied)."""
    kernel: KernelName = "uniform"
    """The fall of the coupling with the distance between blocks."""
    first_coupled: Annotated[int, "[0, 10000]"] = 0
    """The first coupled block of each stage; the paper's late coupling is 5."""
    epochs: Annotated[int | None, "[1, 1e6]"] = None
    """Passes through the training data. By default the recipe's."""
    batch_size: Annotated[int | None, "[2, 1e9]"] = None
    """Training images a step. By default the recipe's."""
    lr: Annotated[float | None, _POSITIVE] = None
    """Initial learning rate. By default the recipe's."""
    lr_divisor: Annotated[float | None, _POSITIVE] = None
    """Divisor of the learning rate at half and at three quarters of the epochs. By default the recipe's."""
    momentum: Annotated[float, "[0, 1]"] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, f"[0, {FLOAT32_MOST}]"] = 1e-4
    """Weight decay of SGD."""
    augment: bool | None = None
    """Whether to train on random crops (padded by 4 pixels) and flips. By default as the recipe has it."""
    selection: Selection = "validation"
    """The split that chooses the best epoch."""
    seed: Annotated[int, "[0, 4294967295]"] = 0  # combined with the epoch's number, it has to fit torch's generators
    """Initial weights, the order of the data and the augmentation are drawn from it."""
    threads: Annotated[int, "[1, 1024]"] = 1
    """CPU threads of training; results differ in their bits between numbers of threads."""
    precision: TrainingPrecision = "float32"
    """float32; or bf16: training multiplies in bfloat16, which is faster on processors and GPUs that have it. Weights,
    coupling, Lipschitz constants, validation and measuring stay in float32."""
    compile: bool = False
    """Compile the network's training steps (torch.compile, "reduce-overhead"). It takes a minute at the start and needs
    a C++ compiler; results change by rounding."""
    stack: Annotated[int, "[1, 64]"] = 1
    """Up to so many runs of a study or sweep that differ only in seed, coupling, kernel, first_coupled and init are
    trained side by side as one network, which changes results by rounding. For ordinary networks of one stage; it is
    faster for narrow ones. A run that is alone is trained as ever."""

    def __post_init__(self) -> None:
        """Check the fields; the fit of stages and samples to the data is checked when the data are loaded."""
        for field in fields(self):
            value = _check(field.name, getattr(self, field.name), field.type)
            object.__setattr__(self, field.name, value)  # 1 and 1.0 are the same strength
        recipe = recipe_of(self.data)
        lr, divisor = self.lr or recipe.lr, self.lr_divisor or recipe.lr_divisor
        if lr / divisor / divisor > FLOAT32_MOST:
            problem = f"is too small; it takes the learning rate beyond {FLOAT32_MOST}"
            raise OptionError("lr_divisor", divisor, problem)
        if self.coupling > 0 and not self.tieable:
            problem = f"leaves fewer than two of {self.blocks} blocks to couple"
            remedy = "use fewer uncoupled blocks, more blocks, or no coupling"
            raise OptionError("first_coupled", self.first_coupled, f"{problem}; {remedy}")
        if self.stack > 1 and not self.stackable:
            problem = "is for ordinary networks of one stage that are not compiled; leave it out"
            raise OptionError("stack", self.stack, problem)

    @property
    def stackable(self) -> bool:
        """True if the network can be trained side by side with others of its shape, as one network."""
        return self.residual == "ordinary" and self.resolved().stages == 1 and not self.compile

    @property
    def tieable(self) -> bool:
        """True if every stage has two blocks or more, from the first coupled one on, that can share their weights."""
        return self.blocks - self.first_coupled >= 2

    def resolved(self) -> "RunConfig":
        """Return the same run with the recipe's values where fields are None."""
        recipe = {**vars(recipe_of(self.data)), "init": "recurrent" if self.coupling > 0 else "independent"}
        run = copy(self)
        for name, value in recipe.items():  # which need no checks, and these would take the most time of finding names
            if getattr(self, name) is None:
                object.__setattr__(run, name, value)
        return run

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch; the first one has number 0."""
        run = self.resolved()
        assert run.lr is not None and run.lr_divisor is not None and run.epochs is not None
        passed = sum(epoch >= run.epochs * part for part in (0.5, 0.75))
        return float(run.lr / run.lr_divisor**passed)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields of the resolved run.

        Fields that came later are left out where they have the value that was the only one before, so that hashes stay
        what they were.
        """
        values = asdict(self.resolved())
        for name, only in (("threads", 1), ("precision", "float32"), ("compile", False), ("stack", 1)):
            if values[name] == only:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """Make a run from what ``to_dict`` returned.

        Args:
            values: The fields by name.

        Returns:
            The run.

        Raises:
            InputError: If a field is unknown or its value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError(f"{unknown[0]!r} is not a field of a run; the fields are {', '.join(known)}")
        return cls(**values)

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits that identify the resolved run."""
        return _hash(self)

    @property
    def name(self) -> str:
        """A readable name that ends in the hash; the run's folder has this name by default."""
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


def _check(name: str, value: Any, hint: Any) -> Any:
    """Raise ``OptionError`` for a value that the field's annotation does not allow; return it in the field's type."""
    kind, *interval = get_args(hint) if get_origin(hint) is Annotated else [hint]
    if NoneType in get_args(kind):
        if value is None:
            return None
        kind = get_args(kind)[0]
    if interval:
        number = check_number(name, value, whole=kind is int)
        return kind(check_range(name, number, interval[0], "use a number in this range"))
    if get_origin(kind) is Literal:
        check_choice(name, value, kind)
    elif not isinstance(value, kind):
        raise OptionError(name, value, "is of the wrong kind; see iterconv train --help")
    return value
