"""The command of a sweep, which can be killed and started again, and the comparison of two folders of runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from iterconv.studies import leases
from iterconv.studies.sweep import read_sweep
from servers import descendants, kill_tree, wait_until

FILES = ("config.json", "history.csv", "best.safetensors", "report.parquet")


class Launcher:
    """The command of a sweep, which can be killed and started again.

    Args:
        file: The file that describes the sweep.
        root: The folder of its runs.
        options: Further options of the command.
        environment: The environment of the command; this process's own by default.
    """

    def __init__(self, file: Path, root: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self._file, self.root, self._options = file, root, options
        self._environment = {**(environment or os.environ), "OMP_NUM_THREADS": "1"}

    def start(self) -> None:
        """Start the command."""
        self.root.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "iterconv", "sweep", str(self._file), "--out", str(self.root), *self._options]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=self._environment, start_new_session=True
            )

    @property
    def _log(self) -> Path:
        return self.root.with_suffix(".log")

    def output(self) -> str:
        """Return all that was printed."""
        return self._log.read_text()

    def wait(self, seconds: float) -> int:
        """Wait for the end of the command; returns its exit code."""
        return self._process.wait(seconds)

    def kill(self, everything: bool = False) -> None:
        """Kill the command's process, if it is still there, and nothing else, or everything that it started too."""
        if everything:
            kill_tree(self._process.pid)
        elif self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def running(self) -> dict[int, str]:
        """List the names of the jobs at work that are through with an epoch, by their processes' ids."""
        states = {path.name: leases.read_state(self.root, path.name) for path in self.root.glob(".jobs/*")}
        return {state.pid: name for name, state in states.items() if state.state == "running" and state.step}

    def own_running(self) -> list[str]:
        """List the names of those jobs at work whose processes are below the command's own."""
        own = descendants(self._process.pid)
        return [name for pid, name in self.running().items() if pid in own]

    def finished(self) -> int:
        """Count the runs that are finished."""
        return len(list(self.root.glob("*/result.json")))

    def wait_for_finished(self, count: int) -> None:
        """Wait until so many runs are finished."""
        wait_until(lambda: self.finished() >= count, 600, f"{count} runs are finished; {self._log}")

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            kill_tree(self._process.pid)


def assert_equal(sweep_file: Path, root: Path, done_here: Path) -> None:
    """Compare every run of two folders bit for bit."""
    for name in (run.name for run in read_sweep(sweep_file)):
        for file in FILES:
            assert (root / name / file).read_bytes() == (done_here / name / file).read_bytes(), f"{name}/{file}"
        results = [json.loads((folder / name / "result.json").read_text()) for folder in (root, done_here)]
        for result in results:
            del result["seconds_of_last_session"], result["seal"]  # which is over the seconds too
        assert results[0] == results[1]
        assert not leases.is_held(root, name)
