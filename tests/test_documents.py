"""The pages that people read: short lines, and abbreviations that are explained."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 140
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
ABBREVIATIONS = {
    "CI": "Convergence Index",
    "RI": "Recurrence Index",
    "DI": "Divergence Index",
    "ICR": "improperly",
    "PCR": "properly convergent",
    "EPC": "effective parameter count",
}


def prose(page):
    """The lines of a page outside of code blocks and tables, without the targets of links; others are empty."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        inside ^= fence
        lines.append("" if inside or fence or line.startswith("|") else re.sub(r"\]\([^)]*\)", "]", line))
    assert not inside, f"{page.name} has a code block without an end"
    return lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_the_documents_is_too_long_to_read(page):
    lines = prose(page)
    assert sum(map(bool, lines)) > 5, "there is something to be read"
    assert [(number, len(line)) for number, line in enumerate(lines, 1) if len(line) > MOST] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_abbreviations_are_explained_where_they_are_first_used(page):
    text = " ".join(page.read_text().split())
    for short, words in ABBREVIATIONS.items():
        first = re.search(rf"\b{short}s?\b", re.sub(r"`[^`]*`", lambda code: " " * len(code[0]), text))
        if first:
            near = text[: first.end() + 60]
            assert words.lower() in near.lower(), f"{page.name} uses {short} and does not say what it stands for"
