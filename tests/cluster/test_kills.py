"""Six commands are killed at random moments, 312 times in all, and begun again: nothing is lost or left behind."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest

import killed
from iterconv.files import read
from iterconv.studies.toy_runs import ToyRun
from servers import descendants, wait_until

pytestmark = pytest.mark.slow

KILLS = 52
"""The number of kills of each command."""

RUN = "train --data digits --samples 200 --evaluation-samples 100 --width 2 --blocks 3 --stages 1 --epochs 10"
COMMANDS = {
    "train": f"{RUN} --out OUT/run",
    "data": "data digitclutter --n 300 --workers 1 --out OUT/images.safetensors",
    "data in two processes": "data digitclutter --n 1500 --workers 2 --out OUT/images.safetensors",
    "measure": "measure BASE/run --out OUT/report.parquet",
    "plan": "plan BASE/run --out OUT/plan.csv --blocks 2 --save OUT/smaller.safetensors",
    "report": "report fig1 --out OUT",
}

OLD = 2 * 3600.0
"""Seconds after which what a killed process left behind is of no living process."""


class Starter:
    """Starts commands in processes that are forked from one in which everything is imported.

    Args:
        base: A folder with a finished run, ``run``, and a finished toy network, for commands that need them.
        folder: A new folder for logs.
    """

    def __init__(self, base: Path, folder: Path) -> None:
        self._base, self._log = base, folder / "log"
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", "killed"])

    def start(self, name: str, out: Path):
        """Start a command that writes below a folder."""
        if name == "report":
            shutil.copytree(self._base / "toy", out / "toy", dirs_exist_ok=True)
        words = COMMANDS[name].replace("OUT", str(out)).replace("BASE", str(self._base)).split()
        process = self._context.Process(target=killed.run, args=(words, self._log))
        process.start()
        return process

    def finish(self, name: str, out: Path) -> float:
        """Bring a command to its end; returns the seconds that it took."""
        started = time.monotonic()
        process = self.start(name, out)
        process.join(300)
        assert process.exitcode == 0, self._log.read_text()
        return time.monotonic() - started


@pytest.fixture(scope="module")
def starter(tmp_path_factory) -> Iterator[Starter]:
    folder = tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        for variable in ("TMPDIR", "ITERCONV_CACHE"):
            (folder / variable).mkdir()
            patch.setenv(variable, str(folder / variable))
        made = Starter(folder / "base", folder)
        made.finish("train", folder / "base")
        ToyRun("exact", 0).run(folder / "base", lambda: None, None)
        yield made


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files that are not hidden, but for the seconds that a run took and the seal over them."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}
    for name in [name for name in found if name.endswith("result.json")]:
        result = json.loads(found[name])
        del result["seconds_of_last_session"], result["seal"]
        found[name] = json.dumps(result).encode()
    return found


def hidden(folder: Path) -> list[Path]:
    """List what may be half-written."""
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


def assert_whole(out: Path, expected: dict[str, bytes]) -> None:
    """Every file is what it is at the end, or an intact earlier state of it."""
    for name, found in contents(out).items():
        if name.startswith("run/"):  # it is still growing
            read(out / name)
            if name.endswith(".csv"):
                assert pd.read_csv(out / name).notna().all(axis=None)
        else:
            assert found == expected[name], name


def kill(process) -> None:
    """Kill a process, but nothing that it started, and wait until that is gone too."""
    family = descendants(process.pid)
    process.kill()
    process.join()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), 60, f"the end of {family}")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_again_and_again_ends_with_the_same_bytes(folder, starter, name):
    once, out = folder / "once", folder / "out"
    starter.finish(name, once)
    expected = contents(once)
    shutil.rmtree(once)
    seconds = starter.finish(name, once)
    assert contents(once) == expected, "the same bytes each time"

    chance, kills, ends, most = random.Random(name), 0, 0, 0
    while kills < KILLS:
        process = starter.start(name, out)
        process.join(chance.uniform(0, 1.25 * seconds))  # most files are written at the end
        kill(process)
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            assert_whole(out, expected)
            most = max(most, len(hidden(out)))
        else:
            assert process.exitcode == 0 and contents(out) == expected
            ends += 1
            if ends % 2:  # else the next one finds files of the same names
                shutil.rmtree(out)
    for path in hidden(out):
        os.utime(path, (time.time() - OLD,) * 2)
    starter.finish(name, out)
    assert contents(out) == expected
    assert not hidden(out), "what was left by killed processes is removed"
    print(f"{name}: {kills} kills, {ends} ends between them, {seconds:.1f} s alone, at most {most} files left behind")


def test_nothing_is_left_in_other_folders(starter):
    """It comes last, and looks at the folders of temporary files that all commands above had."""
    for variable in ("TMPDIR", "ITERCONV_CACHE"):
        assert not list(Path(os.environ[variable]).iterdir())
