"""The command ``exits`` and its options; see ``commands.py``."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from tyro import conf

from iterconv.cli.commands_of_studies import Json
from iterconv.options import Against, ExitRule
from iterconv.zoo.model_options import ModelOptions


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
