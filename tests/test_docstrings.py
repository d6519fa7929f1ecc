"""Docstrings name what exists, and tell about every argument."""

import ast
import builtins
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import iterconv as ic
import zoo

SOURCE = Path(ic.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
ROOMS = ("controls", "coupling", "data", "indices", "lipschitz", "measuring", "models", "paths", "tasks", "tying")
QUOTED = re.compile(r"``([^`]+)``|`([^`\n]+)`")
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
OTHERS = {"KIND", "nohup", "test_"}  # a placeholder, a program, a prefix


def dotted(path):
    return ".".join(("iterconv", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def docstrings(tree):
    """The nodes of all docstrings, those of attributes included."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, (ast.Lambda, ast.IfExp)) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield statement.value


def words_of(tree, texts):
    """All names in code, and all words of its strings: options, columns, keys."""
    quoted = {id(text) for text in texts}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(getattr(node, field, None), str):
                yield getattr(node, field)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quoted:
            yield from re.findall(r"\w+", node.value)


TREES = {path: ast.parse(path.read_text()) for path in MODULES}
WORDS = {word for tree in TREES.values() for word in words_of(tree, list(docstrings(tree)))}
WORDS |= {part for path in MODULES for part in (*path.relative_to(SOURCE).parts, path.stem)}


def resolve(start, names):
    """What a dotted name stands for; raises where there is nothing of the kind."""
    found = start
    for name in names:
        if inspect.ismodule(found) and not hasattr(found, name):
            found = importlib.import_module(f"{found.__name__}.{name}")
        elif hasattr(found, name):
            found = getattr(found, name)
        else:  # a field of a dataclass, or an attribute that is only annotated
            found = inspect.get_annotations(found)[name]
    return found


def exists(name, module):
    """True if a name in backticks stands for something: in iterconv, in the module, in Python or torch, or in code."""
    if name.endswith(".py"):
        return any(str(path).endswith(f"/{name}") for path in MODULES) or (SOURCE.parents[1] / name).exists()
    first, *rest = name.split(".")
    for start, names in ((ic, rest if first in ("iterconv", "ic") else None), (module, [first, *rest])):
        try:
            if names is not None:
                resolve(start, names)
                return True
        except (AttributeError, KeyError, ImportError, TypeError):
            if first in ("iterconv", "ic"):
                return False
    elsewhere = (builtins, torch, nn, Tensor)
    return name in WORDS or {first, *rest} <= WORDS or any(hasattr(place, first) for place in elsewhere)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_name_in_backticks_exists(path):
    if "integrations" in path.parts:  # what they import imports torchvision
        zoo.torchvision()
    module = importlib.import_module(dotted(path)) if path.stem not in ("__main__", "slurm_worker") else None
    names = [
        single or double
        for text in docstrings(TREES[path])
        for double, single in QUOTED.findall(text.value if isinstance(text.value, str) else "")
    ]
    assert [name for name in names if NAME.fullmatch(name) and name not in OTHERS and not exists(name, module)] == []


def described(text):
    """The names in the section Args of a docstring; None without one."""
    section = re.search(r"\n\s*Args:\n(.*?)(\n\s*\n|\Z)", text, re.DOTALL)
    if section is None:
        return None
    lines = inspect.cleandoc("\n" + section[1]).splitlines()
    return [match[1] for line in lines if (match := re.match(r"(\w+):", line))]


def arguments_of(function):
    """The names of a function's arguments, without self and cls."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def public_functions():
    """The functions, classes and methods that users reach from the rooms, by name."""
    for room in ROOMS:
        module = importlib.import_module(f"iterconv.{room}")
        for name in dir(module):
            found = getattr(module, name)
            if name.startswith("_") or not getattr(found, "__module__", "").startswith("iterconv."):
                continue
            if inspect.isfunction(found):
                yield f"{room}.{name}", found, found.__doc__
            elif inspect.isclass(found):
                for method, function in vars(found).items():
                    inherited = any(hasattr(base, method) for base in found.__mro__[1:])  # the base tells about it
                    if inspect.isfunction(function) and not method.startswith("_") and not inherited:
                        yield f"{room}.{name}.{method}", function, function.__doc__


PUBLIC = {name: (function, text) for name, function, text in public_functions()}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_tell_about_every_argument(name):
    function, text = PUBLIC[name]
    assert text, "it has no docstring"
    # A single sentence without sections may tell about all arguments itself.
    told = described(inspect.cleandoc(text)) or re.findall(r"\w+", text)
    missing = [argument for argument in arguments_of(function) if argument not in told]
    assert missing == [], name


def test_sections_about_arguments_name_the_arguments():
    wrong = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (text := ast.get_docstring(node)):
                told, arguments = described(text), node.args
                every = [
                    *arguments.posonlyargs,
                    *arguments.args,
                    *arguments.kwonlyargs,
                    arguments.vararg,
                    arguments.kwarg,
                ]
                names = [a.arg for a in every if a is not None and a.arg not in ("self", "cls")]
                if told is not None and sorted({*told} - {"cls"}) != sorted(names):
                    wrong[f"{dotted(path)}.{node.name}"] = (told, names)
    assert wrong == {}
