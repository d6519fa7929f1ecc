"""The commands ``settle``, ``depth``, ``exits`` and ``controls``, and their options; see ``commands.py``."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from iterconv.cli.commands_of_studies import Json
from iterconv.options import Against, ExitRule
from iterconv.zoo.model_options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class Settle:
    """Apply a block again and again, far beyond the trained depth: does the state settle, and stay right?

    Prints the read-outs and the verdicts on the examples, and writes them with a picture.
    """

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, a file that plan saved, or module:function, which returns a
    model; the module's code is run. timm: and hf: never run code that comes with a model."""
    data_and_model: conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    out: Path | None = None
    """The file of the result (.parquet or .json); a picture is drawn beside it."""
    against: Against | None = None
    """The reference of errors: labels (by default, if there are any), or predictions, the model's own."""
    stage: int = 0
    """The stage, numbered from 0."""
    span: tuple[int, int] | None = None
    """The blocks that are applied, as START END: numbered from 0, without END itself; the stage's last block by
    default."""
    steps: int = 200
    """The number of applications beyond the ordinary pass."""
    damping: tuple[float, ...] = (1.0,)
    """The part of each further step that is taken; several parts, as 0.25 0.5 1, are tried one after the other."""
    tolerance: float = 1e-3
    """The relative length of a step below which a state is at rest."""
    no_growth: Annotated[bool, conf.arg(help="Leave out growth rates, which take most of the time.")] = False
    html: Path | None = None
    """The file of a page (.html) in which a reader explores the result."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Open the model and apply its block."""
        from iterconv.cli.settling import settle_model

        settings: dict[str, Any] = {
            "stage": self.stage,
            "span": self.span,
            "steps": self.steps,
            "tolerance": self.tolerance,
            "growth": not self.no_growth,
        }
        model = (self.model, self.data_and_model)
        return settle_model(*model, self.out, self.html, self.against, self.damping, **settings)


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Read a model out after each of its blocks and beyond: which depth is best, and where is each example decided?

    Prints the curve, and writes it with one row for each example and a picture.
    """

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, a file that plan saved, or module:function, which returns a
    model; the module's code is run. timm: and hf: never run code that comes with a model."""
    data_and_model: conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    out: Path | None = None
    """The file of the result (.parquet or .json); a picture is drawn beside it."""
    against: Against | None = None
    """The reference of errors: labels (by default, if there are any), or predictions, the model's own."""
    extra_evaluations: int = 16
    """The evaluations of the last block beyond the ordinary pass."""
    html: Path | None = None
    """The file of a page (.html) in which a reader explores the result."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Open the model and read it out."""
        from iterconv.cli.settling import depth_model

        model = (self.model, self.data_and_model)
        return depth_model(*model, self.out, self.html, self.against, self.extra_evaluations)


@dataclass(frozen=True, kw_only=True)
class Exits:
    """Let each example stop as soon as a rule allows it: what error is left for how many blocks?

    Thresholds are chosen on one half of the batches, and the frontier of error against mean blocks executed is printed
    and written, with a picture, for the other half.
    """

    model: conf.Positional[str]
    """The folder of a finished run, timm:NAME, hf:PATH, a file that plan saved, or module:function, which returns a
    model; the module's code is run. timm: and hf: never run code that comes with a model."""
    data_and_model: conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    out: Path | None = None
    """The file of the frontier (.json); a picture is drawn beside it."""
    against: Against | None = None
    """The reference of errors: labels (by default, if there are any), or predictions, the model's own."""
    rules: tuple[ExitRule, ...] = ("confidence", "agreement", "kl", "residual")
    """The rules: any of confidence, agreement, kl and residual; depth, the same number of blocks for all examples, is
    their baseline and always there."""
    resamples: int = 1000
    """The number of bootstrap resamples for the intervals; 0 for no intervals."""
    html: Path | None = None
    """The file of a page (.html) in which a reader explores the result."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Open the model and measure its exits."""
        from iterconv.cli.exits import exits_of_model

        model = (self.model, self.data_and_model)
        return exits_of_model(*model, self.out, self.html, self.against, rules=self.rules, resamples=self.resamples)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Check every instrument on subjects whose answer is known, some of which are trained for that, in minutes.

    Exits with 1 if an instrument comes out on the wrong side.
    """

    names: conf.Positional[tuple[str, ...]] = ()
    """The names of the controls; all of them by default."""
    module: str | None = None
    """A module of yours that registers further controls (iterconv.controls.register); its code is run."""
    out: Path | None = None
    """The file of the table (.csv)."""
    json: Json = False

    def __call__(self, stop: threading.Event) -> int:
        """Make the subjects and apply the instruments."""
        from iterconv.cli.controls import check_controls

        return check_controls(self.names, self.module, self.out)
