"""``Exits``: error against executed blocks for exit rules, and the models that exit by themselves."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from iterconv.errors import InputError, check_choice, check_number, line_of
from iterconv.files import read_json, to_json, write_atomically, writing
from iterconv.measuring.drawn import Drawn
from iterconv.models.exiting import ExitingModel
from iterconv.options import ExitRule
from iterconv.paths.contract import Bindable, require_staged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "iterconv exits 1"
_NUMBERS = ("threshold", "blocks", "blocks_low", "blocks_high", "search_error", "error", "low", "high")


@dataclass(frozen=True, eq=False)
class Exits(Drawn):
    """The result of ``iterconv.exits``."""

    model: Any
    """The staged model, or the adapter of a foreign one."""
    frontier: pd.DataFrame
    """One row for each rule and threshold, from few blocks to all of them. ``rule``; ``threshold``; ``blocks``: the
    mean number of blocks executed for an example, of all stages, with the interval ``blocks_low`` to ``blocks_high``;
    ``search_error``: the error on the half that chose the thresholds; ``error`` with ``low`` and ``high``, in [0, 1],
    on the other half; ``n``: the number of examples there. The last row of each rule never exits. The rule ``depth``
    stops all examples after the same number of blocks: what the others are to be compared with."""
    options: dict[str, Any]
    """The circumstances: rules, blocks (of the whole model), read_outs, against, resamples, confidence, seed."""

    def apply(self, rule: ExitRule, threshold: float) -> ExitingModel:
        """Make a module in which each example stops by itself.

        Args:
            rule: The rule.
            threshold: Its threshold, from the frontier or another one.

        Returns:
            A module with a copy of the model, in evaluation mode, which runs without the measuring parts of iterconv.

        Raises:
            InputError: If the rule is unknown, the threshold not a number, or the model not a staged one, since the
                forward pass of a foreign model decides itself which blocks are run on the whole batch.
        """
        check_choice("rule", rule, ExitRule)
        check_number("threshold", threshold)
        if isinstance(self.model, Bindable):
            raise InputError(
                "a foreign model's own forward pass runs whole batches, so its examples can't leave one by one; write "
                "it as iterconv.StagedModel(stem, stages, transitions, head)"
            )
        return ExitingModel(copy.deepcopy(self.model), rule, threshold).eval()

    def draw(self) -> "Figure":
        """Draw error against mean blocks executed, one line a rule."""
        from iterconv.figures.exits import draw_exits  # late, as matplotlib is optional

        return draw_exits(self.frontier, self.options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the frontier and the options, but not the model, to a .json file.

        Args:
            path: The file, which appears whole or not at all.

        Raises:
            InputError: If the name does not end in .json, or the file can't be written.
        """
        path = check_json_file(path)
        contents = {"format": FORMAT, "options": self.options, "frontier": self.frontier.to_dict("list")}
        with writing(path):
            write_atomically(path, to_json(contents))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any) -> "Exits":
        """Read what ``save`` wrote.

        Args:
            path: The file.
            model: The model that was measured: staged, or adapted with the same stages.

        Returns:
            The exits.

        Raises:
            InputError: If the file is missing or damaged, or the model has another number of blocks.
        """
        path = check_json_file(path)
        contents = read_json(path, f"there are no exits at {path}; save some with exits.save()", "measure exits again")
        try:
            if contents["format"] != FORMAT:
                raise ValueError("another format")
            kinds: dict[str, Any] = {**dict.fromkeys(_NUMBERS, float), "n": int}
            frontier, options = pd.DataFrame(contents["frontier"]).astype(kinds), dict(contents["options"])
            blocks = options["blocks"]
        except (KeyError, ValueError, TypeError) as problem:
            raise InputError(f"{path} holds no exits ({line_of(problem)}); measure exits again") from None
        require_staged(model)
        own = sum(len(stage.blocks) for stage in model.stages)
        if own != blocks:
            raise InputError(f"{path} is about a model of {blocks} blocks, not of {own}; pass the model of the file")
        return cls(model, frontier, options)


def check_json_file(path: str | os.PathLike[str]) -> Path:
    """Return the path; raises ``InputError`` if its name does not end in .json."""
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"{path} does not name exits; let it end in .json")
    return path
