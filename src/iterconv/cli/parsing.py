"""The parser that turns words into commands: tyro's, with better help and better messages."""

import contextlib
import io
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import reduce
from importlib.metadata import version
from operator import or_
from typing import Annotated, Any

from tyro import cli, conf
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from iterconv.data.known import KNOWN, OTHER_DATA
from iterconv.errors import InputError, suggest

DESCRIPTION = """Measure how iterative and how convergent a residual network is, and train networks to be more so.

Each command has a help screen of its own with an example: iterconv train --help.
iterconv --version tells the version."""

EXAMPLES = {
    "reproduce": "iterconv reproduce fig2 fig3 --scale quick",
    "train": "iterconv train --data digits --width 8 --blocks 16 --coupling 0.5 --out runs/x",
    "measure": "iterconv measure runs/x --audit\n  iterconv measure timm:resnet50 --data cifar10",
    "plan": "iterconv plan runs/x --blocks 4 --save small.safetensors",
    "settle": "iterconv settle runs/x --steps 500\n  iterconv settle timm:resnet50 --data cifar10 --no-growth",
    "depth": "iterconv depth runs/x --out depth.json",
    "exits": "iterconv exits runs/x --rules confidence kl",
    "sweep": "iterconv sweep grid.yaml --workers 2 --out runs/grid",
    "status": "iterconv status runs --watch",
    "report": "iterconv report --scale quick",
    "claims": "iterconv claims results/small",
    "data": "iterconv data cifar10\n  iterconv data digitclutter --digits 4 --n 1000 --out clutter.safetensors",
}


def parse(commands: Mapping[str, type], arguments: list[str]) -> Any:
    """Turn words into a command.

    Args:
        commands: The classes of all commands, by name.
        arguments: The words.

    Returns:
        An instance of one of the classes.

    Raises:
        InputError: If no command has such a name, or an option is out of range.
        SystemExit: With code 0 after help or version, and with 2 if tyro complains about the words.
    """
    if arguments == ["--version"]:
        print(f"iterconv {version('iterconv')}")
        raise SystemExit(0)
    if "" in arguments:  # as in --out "$FOLDER" with FOLDER unset, which would mean the current folder
        raise InputError("one of the words is empty; give it a value, or leave the option out")
    first = arguments[0] if arguments else ""
    if first not in commands and not first.startswith("-"):
        hint = suggest(first, commands)
        raise InputError(f"there is no command {first!r}; {hint}" if first else f"the command is missing; {hint}")
    union: Any = reduce(or_, (Annotated[kind, conf.subcommand(name)] for name, kind in commands.items()))
    options: dict[str, Any] = {"config": (conf.FlagCreatePairsOff,), "registry": _register_numbers()}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return cli(union, args=arguments, prog="iterconv", description=DESCRIPTION, **options)
    except SystemExit as leaving:
        if not leaving.code and first in commands:  # the user asked for the command's help
            print(f"Example:\n  {EXAMPLES[first]}" + (f"\n\n{recipes()}" if first == "train" else ""))
        # tyro exits on our errors as well; the context of its exit still holds them.
        problem: BaseException | None = leaving
        while problem is not None:
            if isinstance(problem, InputError):  # our own error, which tyro takes for a word that can't be parsed
                raise problem from None
            problem = problem.__context__
        sys.stderr.write(complaint.getvalue())
        raise


def _register_numbers() -> ConstructorRegistry:
    """Register parsers of numbers whose messages name the word; tyro's own list the types that it tried."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type in (int, int | None):
            return _parse_number(int, "a whole number")
        return _parse_number(float, "a number") if info.type in (float, float | None) else None

    return registry


def _parse_number(kind: type, words: str) -> PrimitiveConstructorSpec[Any]:
    def parse(typed: list[str]) -> Any:
        try:
            return kind(typed[0])
        except ValueError:
            raise ValueError(f"{typed[0]!r} is not {words}") from None

    def fits(value: Any) -> bool:
        return value is None or isinstance(value, (int, kind))

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=parse,
        is_instance=fits,
        str_from_instance=lambda value: [str(value)],
    )


def recipes() -> str:
    """Return a table of the defaults of ``iterconv train`` that depend on the data set, with the cost of an epoch."""
    known = {name: {**asdict(about.recipe), "epoch-cost": about.epoch_cost} for name, about in KNOWN.items()}
    rows = {**known, "any other data": {**asdict(OTHER_DATA), "epoch-cost": "?"}}
    cells = [["recipe", *(name.replace("_", "-") for name in rows["digits"])]]
    cells += [
        [name, *(f"{value:.4g}" if type(value) in (int, float) else str(value) for value in row.values())]
        for name, row in rows.items()
    ]
    lines = [row[0].ljust(24) + "".join(cell.rjust(12) for cell in row[1:]) for row in cells]
    title = "Recipes, for options that are left out (epoch-cost is that of the same network, 1 for digits):"
    return "\n".join([title, *(f"  {line}" for line in lines)])
