"""The decisions of ours that the code names: every ``Choice:`` and ``Departure:`` of a docstring or comment."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("Choice", "Departure")
_MARK = re.compile(rf"\b({'|'.join(KINDS)}):\s")
_END = re.compile(rf"\n\s*\n(?!\s*\d+\. )|\b(?:{'|'.join(KINDS)}|Source):\s")
_SOURCE = re.compile(rf"\bSource: (.*?)\s*(?:\n\s*\n|\b(?:{'|'.join(KINDS)}):\s|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Decision:
    """One decision."""

    kind: str
    """One of ``KINDS``."""
    text: str
    """What was decided, in one line."""
    place: str
    """The module, with the function or class if it stands in one."""
    source: str
    """The section of the paper that the same docstring names; empty if it names none."""


def collect(source: Path) -> list[Decision]:
    """Collect the decisions of a package.

    Args:
        source: The package's folder.

    Returns:
        All decisions, in the order of the files and of their lines.
    """
    return [decision for path in sorted(source.rglob("*.py")) for decision in _in_file(path, source)]


def _in_file(path: Path, source: Path) -> Iterator[Decision]:
    name = ".".join((source.name, *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")
    for place, text in [*_docstrings(ast.parse(path.read_text()), ""), *(("", text) for text in _comments(path))]:
        told = _SOURCE.search(text)
        for mark in _MARK.finditer(text):
            end = _END.search(text, mark.end())
            words = " ".join(text[mark.end() : end.start() if end else None].split())
            yield Decision(mark[1], words, f"{name}.{place}".strip("."), " ".join(told[1].split()) if told else "")


def _docstrings(tree: ast.AST, place: str) -> Iterator[tuple[str, str]]:
    """Yield the strings that stand alone, those below attributes included, with the place where each stands."""
    before: ast.AST | None = None
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield f"{place}.{_target(before)}".strip("."), node.value.value
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from _docstrings(node, f"{place}.{node.name}".strip("."))
        before = node


def _target(node: ast.AST | None) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def _comments(path: Path) -> Iterator[str]:
    """Yield the comments that fill lines of their own; neighbouring lines are one comment."""
    lines: list[str] = []
    for line in [*path.read_text().splitlines(), ""]:
        if line.lstrip().startswith("#"):
            lines.append(line.lstrip().lstrip("# "))
        elif lines:
            yield "\n".join(lines)
            lines = []


def to_markdown(decisions: list[Decision]) -> str:
    """Write the decisions as tables, one for each room of the package.

    Args:
        decisions: The decisions, as of ``collect``.

    Returns:
        Markdown.
    """
    rooms: dict[str, list[Decision]] = {}
    for decision in decisions:
        rooms.setdefault(decision.place.split(".")[1], []).append(decision)
    parts = []
    for room, own in rooms.items():
        rows = [f"| {d.kind} | {_cell(d.text)} | {_cell(d.source)} | `{d.place.partition('.')[2]}` |" for d in own]
        parts.append("\n".join([f"## {room}", "", "| | what | source | where |", "| --- | --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return (text[:1].upper() + text[1:]).replace("``", "`").replace("|", "\\|")
