"""The limits of the house: files and functions that can be read at once."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src").rglob("*.py"))
LONGEST_FILE = 300
LONGEST_BODY = 37


def body_lines(function):
    """The number of lines of a function without its signature and docstring."""
    statements = function.body[ast.get_docstring(function) is not None :]
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


def test_no_file_is_too_long():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}
    assert max(lengths.values()) > LONGEST_FILE / 2, "there is something to be measured"


def test_no_function_is_too_long():
    found = [
        (file.name, node.name, body_lines(node))
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [one for one in found if one[2] > LONGEST_BODY] == []
    assert max(lines for *_, lines in found) > LONGEST_BODY / 2, "there is something to be measured"
