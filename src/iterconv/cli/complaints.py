"""What the parser complains of, said in one line with the remedy, as all bad input is answered."""

import re
from collections.abc import Iterable, Sequence

from iterconv.errors import suggest

_DRAWN = re.compile(r"\x1b\[[0-9;]*m|[│╭╮╰╯]|\[/?bold\]")
_TOP = re.compile(r"^.*╭.*╮.*$", re.MULTILINE)
_RULE = re.compile(r"^[\s─-]*[─-]{8,}.*$", re.MULTILINE)


def in_one_line(complaint: str, arguments: Sequence[str], options: Iterable[str]) -> str:
    """Turn a complaint of tyro's, which is a box of many lines, into one line.

    Args:
        complaint: The text that tyro wrote.
        arguments: The words that were typed, the command first.
        options: All options of the command, as ``--out``.

    Returns:
        The line.
    """
    command, more = arguments[0], f"`iterconv {arguments[0]} --help` lists what it takes"
    # A title stands in the box's first line or, where nothing is drawn around the text, above the first rule or in it.
    titled = _TOP.sub("─" * 8, complaint, count=1)
    parts = [" ".join(part.split()) for part in _RULE.split(_DRAWN.sub("", titled))]
    said = parts[min(1, len(parts) - 1)]
    if "options: " in said:
        return _unknown(said, command, arguments, list(options), more)
    if found := re.search(r"invalid choice '?(.*?)'? for argument '(?:.*/)?(.*?)'\. Expected one of \((.*?),?\)", said):
        word, option, choices = found.groups()
        known = choices.split(", ")
        if "'None'" in known:  # tyro has these choices in a set, whose order changes from process to process
            known = sorted(set(known) - {"'None'"})
        return f"{option} {word} is unknown; use {' or '.join(', '.join(known).rsplit(', ', 1))}"
    if found := re.search(r"Missing value for argument '(?:.*/)?(.*?)'", said):
        return lacks_value(found[1])
    if found := re.search(r"Error parsing (?:\S*/)?(\S+): no type matching (.*) could be .*? from \[(.*?)\]", said):
        option, form, words = found.groups()
        return f"{option} takes {re.sub(r'[{]None[}]|[{}|]', '', form)}, not {words}; {more}"
    if found := re.search(r"Error parsing (?:\S*/)?(\S+): (.*)", said):
        return f"{found[1]}: {found[2]}; {more}"
    if found := re.search(r"Missing from iterconv .*?: (?:[A-Z]+|\{.*?\}) (.*?)(?:\. | \(required\)|$)", said):
        return f"{command} lacks a word: {found[1][0].lower()}{found[1][1:].rstrip('.')}; {more}"
    return f"{said}; {more}"


def lacks_value(option: str) -> str:
    """Answer an option without a value."""
    return f"{option} lacks its value; give it one, or leave the option out"


def _unknown(said: str, command: str, arguments: Sequence[str], options: list[str], more: str) -> str:
    """Answer an option that the command does not have, or a word too many."""
    typed = [word.split("=", 1)[0].replace("_", "-") for word in arguments[1:] if re.match(r"-+[a-zA-Z]", word)]
    unknown = next((word for word in typed if word not in options), None)
    if unknown is None:
        word = said.partition("options: ")[2].split()[0].rstrip(",")
        return f"{command} does not take the word {word!r}; {more}"
    hint = suggest(unknown, options)
    return f"{command} has no option {unknown}; {hint if hint.startswith('did') else more}"
