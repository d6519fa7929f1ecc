"""The parser that turns words into commands: tyro's, with better help and better messages."""

import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import reduce
from importlib.metadata import version
from itertools import pairwise
from operator import or_
from typing import Annotated, Any

from tyro import cli, conf
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from iterconv.cli.complaints import in_one_line, lacks_value
from iterconv.data.known import KNOWN, OTHER_DATA
from iterconv.errors import InputError, suggest
from iterconv.options import Shell
from iterconv.training.config import RunConfig

DESCRIPTION = """Measure how iterative and how convergent a residual network is, and train networks to be more so.

Each command has a help screen of its own with two examples: iterconv train --help.
iterconv --version tells the version. Exit codes: 0 success, 1 some runs or controls failed, 2 bad input, 130
interrupted, 141 the reader of the output went away."""

EXAMPLES = {
    "reproduce": "iterconv reproduce fig2 fig3 --scale quick\n  iterconv reproduce --scale small --dry-run",
    "train": "iterconv train --data digits --width 8 --blocks 16 --coupling 0.5 --out runs/x\n"
    "  iterconv train --data cifar10 --residual proper --epochs 20 --log tensorboard",
    "measure": "iterconv measure runs/x --audit\n  iterconv measure timm:resnet50 --data cifar10",
    "plan": "iterconv plan runs/x --blocks 4 --save small.safetensors\n"
    "  iterconv plan timm:resnet18 --data cifar10 --mode share --budget 0.5",
    "spans": "iterconv spans runs/x --kinds drop repeat --out spans.csv\n"
    "  iterconv spans timm:vit_tiny_patch16_224 --data cifar10 --against predictions",
    "settle": "iterconv settle runs/x --steps 500 --damping 0.25 0.5 1\n"
    "  iterconv settle timm:resnet50 --data cifar10 --no-growth",
    "depth": "iterconv depth runs/x --out depth.json\n  iterconv depth timm:resnet50 --data cifar10",
    "exits": "iterconv exits runs/x --rules confidence kl\n  iterconv exits timm:resnet50 --data cifar10",
    "sweep": "iterconv sweep grid.yaml --workers 2 --out runs/grid\n  iterconv sweep grid.yaml --dry-run",
    "status": "iterconv status runs --watch\n  iterconv status runs --json",
    "report": "iterconv report --scale quick\n  iterconv report fig2 fig3 --scale small --out runs",
    "figure": "iterconv figure fig3 results/small --style slides --out fig3.pdf\n  iterconv figure fig7 --out fig7.svg",
    "claims": "iterconv claims results/small\n  iterconv claims --scale quick --json",
    "controls": "iterconv controls --out controls.csv\n  iterconv controls contraction rotation expansion",
    "data": "iterconv data cifar10\n  iterconv data digitclutter --digits 4 --n 1000 --out clutter.safetensors",
    "completion": "iterconv completion bash > ~/.local/share/bash-completion/completions/iterconv\n"
    "  iterconv completion fish > ~/.config/fish/completions/iterconv.fish",
}
"""Two examples of each command, in lines that begin with two spaces but for the first."""


def parse(commands: Mapping[str, type], arguments: list[str]) -> Any:
    """Turn words into a command.

    Args:
        commands: The classes of all commands, by name.
        arguments: The words.

    Returns:
        An instance of one of the classes.

    Raises:
        InputError: If no command has such a name, if a word can't be parsed, or an option is out of range.
        SystemExit: With code 0 after help or version.
    """
    if arguments[:1] == ["--version"]:
        print(f"iterconv {version('iterconv')}")
        raise SystemExit(0)
    if "" in arguments:  # as in --out "$FOLDER" with FOLDER unset, which would mean the current folder
        raise InputError("one of the words is empty; give it a value, or leave the option out")
    first = arguments[0] if arguments else ""
    if first not in commands and first not in ("-h", "--help") and not first.startswith("--tyro-"):
        hint = suggest(first, commands)
        raise InputError(f"there is no command {first!r}; {hint}" if first else f"the command is missing; {hint}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = _call_tyro(commands, arguments)
    except SystemExit as leaving:
        if not leaving.code and first in commands:  # the user asked for the command's help
            print(
                f"Examples:\n  {EXAMPLES[first]}" + (f"\n\n{recipes(_data_of(arguments))}" if first == "train" else "")
            )
        # tyro exits on our errors as well; the context of its exit still holds them.
        problem: BaseException | None = leaving
        while problem is not None:
            if isinstance(problem, InputError):  # our own error, which tyro takes for a word that can't be parsed
                raise problem from None
            problem = problem.__context__
        if not leaving.code:
            raise
        raise InputError(in_one_line(complaint.getvalue(), arguments, _options_of(commands, first))) from None
    for word, following in pairwise([*arguments, "--"]):
        # tyro takes an option of several values that has none as if it were left out.
        if word[:2] == following[:2] == "--" and getattr(command, word[2:].replace("-", "_"), None) == ():
            raise InputError(lacks_value(word))
    return command


def _call_tyro(commands: Mapping[str, type], arguments: list[str]) -> Any:
    shown = {"train": {"default": _with_recipe(commands["train"], arguments)}} if _asks(arguments, "train") else {}
    parts = (Annotated[kind, conf.subcommand(name, **shown.get(name, {}))] for name, kind in commands.items())
    union: Any = reduce(or_, parts)
    options: dict[str, Any] = {"config": (conf.FlagCreatePairsOff,), "registry": _register_numbers()}
    return cli(union, args=arguments, prog="iterconv", description=DESCRIPTION, **options)


def _options_of(commands: Mapping[str, type], name: str) -> set[str]:
    """List the options of a command, as its help does."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        _call_tyro(commands, [name, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", shown.getvalue()))


def _asks(arguments: list[str], command: str) -> bool:
    return arguments[:1] == [command] and not {"-h", "--help"}.isdisjoint(arguments)


def _data_of(arguments: list[str]) -> str:
    """Return the data set that the words name, or the one by default."""
    words = [part for word in arguments for part in word.split("=", 1)]
    named = [value for option, value in zip(words, words[1:], strict=False) if option == "--data" and value[:1] != "-"]
    return named[-1] if named else RunConfig().data


def _with_recipe(train: Any, arguments: list[str]) -> Any:
    """Make the command of which the help shows the defaults: those of the data set, where a recipe has them."""
    return train(run=RunConfig(data=_data_of(arguments)).resolved())


def print_completion(commands: Mapping[str, type], shell: Shell) -> None:
    """Print the script with which a shell completes commands and options.

    Args:
        commands: The classes of all commands, by name.
        shell: The shell.
    """
    with contextlib.suppress(SystemExit):  # with which tyro ends once it has printed
        _call_tyro(commands, ["--tyro-write-completion", shell, "-"])


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


def recipes(data: str) -> str:
    """Return a table of the defaults of ``iterconv train`` that depend on the data set, with the cost of an epoch.

    Args:
        data: The data set whose recipe the help has shown.

    Returns:
        The table, with a title.
    """
    known = {name: {**asdict(about.recipe), "epoch-cost": about.epoch_cost} for name, about in KNOWN.items()}
    rows = {**known, "any other data": {**asdict(OTHER_DATA), "epoch-cost": "?"}}
    cells = [["recipe", *(name.replace("_", "-") for name in rows["digits"])]]
    cells += [
        [name, *(f"{value:.4g}" if type(value) in (int, float) else str(value) for value in row.values())]
        for name, row in rows.items()
    ]
    lines = [row[0].ljust(24) + "".join(cell.rjust(12) for cell in row[1:]) for row in cells]
    title = (
        f"The defaults above are those for --data {data}. Other data have others, and with coupling the start is\n"
        "recurrent (epoch-cost is that of the same network, 1 for digits):"
    )
    return "\n".join([title, *(f"  {line}" for line in lines)])
