"""The command ``controls``."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from iterconv.cli.console import bar, console
from iterconv.controls import CONTROLS, Outcome, examine
from iterconv.errors import InputError, describe_error
from iterconv.files import require_file, write_atomically, writing
from iterconv.training.allocator import keep_freed_memory

COLUMNS = ["control", "instrument", "expected", "found", "passed"]


def check_controls(names: Sequence[str], module: str | None, out: Path | None) -> int:
    """Examine controls, print what each instrument has found beside the known answer, and write the table.

    Args:
        names: The names of the controls; all of them if there are none.
        module: The name of a module that registers further controls.
        out: The file of the table, if one is wanted.

    Returns:
        The exit code: 1 if a control has failed.

    Raises:
        InputError: If a name is unknown, the module can't be imported, or the file can't be written.
    """
    if out:
        if out.suffix != ".csv":
            raise InputError(f"--out {out} does not name a table; let it end in .csv")
        require_file(out)
    if module:
        _import(module)
    chosen = [CONTROLS.find(name) for name in dict.fromkeys(names)] or list(CONTROLS.values())
    keep_freed_memory()  # else the automaton takes twice as long
    outcomes, work = [], sum(control.cost for control in chosen)
    with bar("percent of the work", 100) as advance:
        for control in chosen:
            outcomes.append(examine(control))
            done = sum(outcome.control.cost for outcome in outcomes)
            advance(round(100 * done / work))
            _tell(outcomes[-1])
    table = _make_table(outcomes)
    if len(table):
        console.print("\n" + table.assign(passed=table.passed.map({True: "yes", False: "NO"})).to_string(index=False))
    if out:
        with writing(out):
            write_atomically(out, table.to_csv(index=False).encode())
    failed = [outcome.control.name for outcome in outcomes if not outcome.passed]
    skipped = sum(bool(outcome.skipped) for outcome in outcomes)
    passed = len(outcomes) - skipped - len(failed)
    names_of_failed = f": {', '.join(failed)}" if failed else ""
    console.print(f"\n{passed} controls passed, {len(failed)} failed{names_of_failed}, {skipped} skipped")
    return 1 if failed else 0


def _tell(outcome: Outcome) -> None:
    """Print what became of a control, in a line and as a record for machines."""
    told = {"passed": None if outcome.skipped else outcome.passed, "skipped": outcome.skipped or None}
    checks = [asdict(check) for check in outcome.checks]
    console.emit(control=outcome.control.name, **told, seconds=outcome.seconds, checks=checks)
    console.print(_describe(outcome))


def _describe(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"{outcome.control.name}: skipped, since {outcome.skipped}"
    right = sum(check.passed for check in outcome.checks)
    verdict = "passed" if outcome.passed else "FAILED"
    where = f"{right} of {len(outcome.checks)} checks in {outcome.seconds:.0f} s"
    return f"{outcome.control.name}: {verdict}, {where}. {outcome.control.statement}"


def _make_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    rows = [{"control": one.control.name, **asdict(check)} for one in outcomes for check in one.checks]
    return pd.DataFrame(rows, columns=COLUMNS)


def _import(module: str) -> None:
    """Import a module of the user's, which may be a file in the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as problem:  # noqa: BLE001 - a user's own code, or no module's name at all
        told = describe_error(problem)
        raise InputError(f"--module {module}: importing it raised {told}; name a module that can be imported") from None
