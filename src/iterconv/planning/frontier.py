"""``Plan``: what a search for blocks that can go has found, and the smaller models that follow from it."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from iterconv import paths
from iterconv.adapters.rebuild import layers_of, rebuild
from iterconv.errors import InputError, OptionError, check_count, line_of
from iterconv.files import read_json, to_json, write_atomically, writing
from iterconv.measuring.drawn import Drawn
from iterconv.paths.contract import require_staged
from iterconv.planning.recipes import passthrough

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Plan(Drawn):
    """The best routes that were found, for every number of blocks."""

    model: Any
    """The staged model, or the adapter of a foreign one."""
    frontier: pd.DataFrame
    """One row for each number of blocks, the ordinary pass first: ``blocks`` (executed), ``distinct`` (different ones),
    ``route``, ``search_error`` (on the half that chose the route), ``error`` with ``low`` and ``high`` (on the other
    half), and ``n``, the number of rows."""
    options: dict[str, Any]
    baselines: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The routes that conventional numbers choose, if blocks are dropped: ``method`` ("Block Influence" or "angular
    distance"), and the columns of the frontier without ``search_error``."""

    def route(self, blocks: int) -> paths.Route:
        """Return the route with a number of blocks: executed blocks, or different ones if the plan shares weights.

        Args:
            blocks: The number, which has to be on the frontier.

        Returns:
            A path for every stage.

        Raises:
            InputError: If the number is not on the frontier.
        """
        column = counted(self.options["mode"])
        blocks = check_count("blocks", blocks, 0)
        rows = self.frontier[self.frontier[column] == blocks]
        if rows.empty:
            low, high = self.frontier[column].min(), self.frontier[column].max()
            raise OptionError("blocks", blocks, f"is not on the frontier; use {low} to {high}")
        return tuple(rows["route"].iloc[0])

    def apply(self, blocks: int) -> nn.Module:
        """Make a smaller, ordinary module that executes one route.

        Args:
            blocks: The number of blocks, which has to be on the frontier.

        Returns:
            A copy of the model whose containers hold the route's blocks only, in evaluation mode if the model is. A
            repeated block is one module that is there several times, except in language models, whose blocks are
            copied, since their caches need places of their own.

        Raises:
            InputError: If the number is not on the frontier, if the blocks are not children of one container, or if the
                copy does not reproduce the route.
        """
        return rebuild(self.model, self.route(blocks))

    def layers(self, blocks: int) -> list[int]:
        """List the layers that one route executes, by their numbers in the model's own list of layers.

        Args:
            blocks: The number of blocks, which has to be on the frontier.

        Returns:
            The numbers, from 0, in the order of execution; layers that belong to no stage are among them.

        Raises:
            InputError: If the number is not on the frontier, or if the model's layers are not in one list.
        """
        return layers_of(self.model, self.route(blocks))[1]

    def recipe(self, blocks: int, name: str) -> str:
        """Write one route as a recipe for other tools that cut and repeat the layers of language models.

        Args:
            blocks: The number of blocks, which has to be on the frontier.
            name: The name or the folder under which the tools find the original model.

        Returns:
            A passthrough merge of mergekit, in YAML. If the route only drops layers, its first line is a comment with
            the option of llama-quantize (llama.cpp) that drops them from a GGUF file.

        Raises:
            InputError: If the number is not on the frontier, or if the model's layers are not in one list.
        """
        return passthrough(name, *layers_of(self.model, self.route(blocks)))

    def coupling_groups(self, blocks: int) -> list[list[nn.Module]]:
        """Suggest groups for ``iterconv.couple``: the blocks that a route replaces, with the blocks that replace them.

        Args:
            blocks: The number of blocks, on the frontier of a plan that shares weights.

        Returns:
            Lists of two or more modules of the original model.

        Raises:
            InputError: If the number is not on the frontier.
        """
        groups = []
        for stage, path in zip(self.model.stages, self.route(blocks), strict=True):
            by_block: dict[int, list[nn.Module]] = {}
            for place, block in enumerate(path):
                by_block.setdefault(block, []).append(stage.blocks[place])
            groups += [group for group in by_block.values() if len(group) > 1 and len(path) == len(stage.blocks)]
        return groups

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the frontier and the options, but not the model, to a .json file.

        Args:
            path: The file, which appears whole or not at all.

        Raises:
            InputError: If the name does not end in .json, or the file can't be written.
        """
        path = _check_json_file(path)
        tables = {"frontier": self.frontier.to_dict("list"), "baselines": self.baselines.to_dict("list")}
        contents = {"format": FORMAT, "options": self.options, **tables}
        with writing(path):
            write_atomically(path, to_json(contents))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module) -> "Plan":
        """Read a plan that ``save`` wrote.

        Args:
            path: The file.
            model: The model of the plan: staged, or adapted with the same stages.

        Returns:
            The plan.

        Raises:
            InputError: If the file is missing or damaged, or if its model has other stages.
        """
        path = _check_json_file(path)
        contents = read_json(path, f"there is no plan {path}; save one with plan.save()", "plan again")
        try:
            if contents["format"] != FORMAT:
                raise ValueError("another format")
            frontier, baselines = (_table(contents.get(name, {})) for name in ("frontier", "baselines"))
            intact, options = frontier["route"].iloc[0], dict(contents["options"])
            frontier[["search_error", "error", "low", "high"]].astype(float)  # raises if they are not numbers
        except (KeyError, ValueError, TypeError, IndexError) as problem:
            raise InputError(f"{path} is not a plan ({line_of(problem)}); plan again") from None
        require_staged(model)
        stages: Any = model.stages
        if intact != paths.full_route(stages):
            sizes = [len(stage.blocks) for stage in stages]
            raise InputError(f"{path} is a plan of {[len(path) for path in intact]} blocks a stage, not of {sizes}")
        return cls(model, frontier, options, baselines)

    def draw(self) -> "Figure":
        """Draw the frontier."""
        from iterconv.figures.one_model import draw_plan  # late, as matplotlib is optional

        return draw_plan(self.frontier, self.options["mode"], self.baselines)


FORMAT = "iterconv plan 1"


def counted(mode: str) -> str:
    """Return the column of a frontier in which a mode counts blocks: executed ones, or different ones."""
    return "distinct" if mode == "share" else "blocks"


def _table(columns: Any) -> pd.DataFrame:
    """Make a table of routes from the columns of a file."""
    table = pd.DataFrame(columns)
    if not table.empty:
        table["route"] = [tuple(tuple(path) for path in route) for route in table["route"]]
        table = table.astype({"low": float, "high": float})
    return table


def _check_json_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"{path} does not name a plan; let it end in .json")
    return path
