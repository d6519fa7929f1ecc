"""What the command line does beside its work: records for machines, progress, colours, exit codes, last words."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import TINY, refused
from iterconv import files
from iterconv.cli.commands import Data, Reproduce, Train
from iterconv.cli.main import COMMANDS, main
from iterconv.cli.saved import what_is_saved
from iterconv.errors import InputError
from iterconv.studies.executors.engines import _bytes_of
from iterconv.studies.leases import JobState, write_state
from iterconv.studies.sweep import read_sweep
from iterconv.training.config import RunConfig

ROOT = Path(__file__).parents[1]


def records(capsys):
    """The records on standard output, which holds nothing else, and what was said on standard error."""
    captured = capsys.readouterr()
    return [json.loads(line, parse_constant=pytest.fail) for line in captured.out.splitlines()], captured.err


@pytest.mark.medium
def test_records_of_a_run_and_of_its_measurement(capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", *TINY, "--out", out, "--json"]) == 0
    [record], said = records(capsys)
    assert record["folder"] == out and 0 <= record["test_error"] <= 1 and "test error" in said
    assert {row["index"] for row in record["indices"]} == {"convergence", "recurrence", "divergence"}
    assert {row["stage"] for row in record["indices"]} == {1, "mean"}

    assert main(["measure", out, "--resamples", "0", "--audit", "--json"]) == 0
    [measured, audited], _ = records(capsys)
    assert measured["report"] == f"{out}/report-labels.parquet" and measured["examples"] == 359
    assert [row["low"] for row in measured["indices"]] == [None] * 6, "NaN is not JSON"
    assert [row["block"] for row in audited["audit"]] == [1, 2]

    small = str(tmp_path / "small.safetensors")
    assert main(["plan", out, "--budget", "1", "--blocks", "1", "--save", small, "--json"]) == 0
    [plan, saved], _ = records(capsys)
    assert [len(row["route"][0]) for row in plan["routes"]] == [2, 1] and saved["saved"] == small
    assert main([*saved["opened_by"][1:], "--json"]) == 0


@pytest.mark.extended
@pytest.mark.medium
def test_records_of_the_other_commands(capsys, tmp_path):
    assert main(["data", "digits", "--json"]) == 0
    assert records(capsys)[0] == [
        {"data": "digits", "train": 1294, "validation": 144, "test": 359, "channels": 1}
        | {"height": 8, "width": 8, "classes": 10, "chance": 0.9}
    ]
    assert main(["reproduce", "--list", "--json", "--out", str(tmp_path)]) == 0
    listed, said = records(capsys)
    assert {row["scale"] for row in listed} == {"quick", "small", "desk", "paper"} and "fig13" in said
    (tmp_path / "grid.yaml").write_text("width: [2, 4]\n")
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--dry-run", "--json", "--out", str(tmp_path / "runs")]) == 0
    assert [row["finished"] for row in records(capsys)[0]] == [False, False]
    assert main(["claims", str(ROOT / "results" / "quick"), "--json"]) == 0
    assert sorted({row["claim"] for row in records(capsys)[0]}) == [*range(1, 18)]


def test_every_command_but_completion_can_print_records():
    assert [name for name, kind in COMMANDS.items() if not hasattr(kind, "json")] == ["figure", "completion"]


def on_a_terminal(words, **environment):
    """What a command prints on a terminal of its own."""
    leader, follower = pty.openpty()
    given = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "iterconv", *words], stdin=follower, stdout=follower, stderr=follower, env=given
    )
    os.close(follower)
    printed = b""
    while True:
        try:
            new = os.read(leader, 4096)
        except OSError:
            break
        if not new:
            break
        printed += new
    os.close(leader)
    process.wait()
    return printed.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;[\d;]+)m")


@pytest.mark.medium
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
def test_a_terminal_shows_at_once_what_is_done_and_no_colours_are_used_against_the_users_will():
    printed = on_a_terminal(["data", "digits"], NO_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    assert plain.index("loading libraries") < plain.index("loading digits") < plain.index("digits: 1294")
    assert not COLOUR.search(printed) and not COLOUR.search(on_a_terminal(["data", "--help"], NO_COLOR="1"))
    assert COLOUR.search(on_a_terminal(["data", "--help"], NO_COLOR=""))


def test_what_goes_to_pipes_is_plain_text():
    done = subprocess.run([sys.executable, "-m", "iterconv", "train", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--coupling" in done.stdout and "\x1b" not in done.stdout + done.stderr


def test_a_log_gets_a_line_of_progress_now_and_then(capsys, monkeypatch):
    from iterconv.cli import console

    monkeypatch.setattr(console, "LOG_EVERY", -1.0)
    with console.bar("epochs", 10) as advance:
        advance(1)
        time.sleep(0.01)
        advance(5)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[0] == "epochs 1/10 after 0 s" and re.fullmatch(r"epochs 5/10 after 0 s, about \d s left", lines[1])
    assert len(lines) == 2 and not captured.out


@pytest.mark.medium
@pytest.mark.parametrize("words", [["completion", "bash"], ["sweep", "GRID", "--dry-run"]])
def test_a_reader_that_goes_away_is_told_by_the_exit_code(tmp_path, words):
    grid = tmp_path / "grid.yaml"
    grid.write_text("width: [2, 4]\n")
    words = [sys.executable, "-m", "iterconv", *[word.replace("GRID", str(grid)) for word in words]]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read()
    assert process.wait() == 141 and ("the reader of the output has gone" in said) == ("sweep" in words)
    assert "Traceback" not in said and "Exception ignored" not in said


def test_last_words_about_a_run_are_what_its_folder_holds(tmp_path):
    command = Train(run=RunConfig(), out=tmp_path)
    assert what_is_saved(command) == "nothing was saved, and the same command begins anew"
    (tmp_path / "history.csv").write_text("epoch,lr\n1,0.1\n2,0.1\n")
    assert what_is_saved(command) == "nothing was saved, and the same command begins anew"
    (tmp_path / "checkpoint.pt").write_text("")
    assert what_is_saved(command) == f"its state was saved now in {tmp_path}, after 2 whole epoch(s); " + GOES_ON
    before = time.time() - 20
    os.utime(tmp_path / "checkpoint.pt", (before, before))
    assert "saved 20 s ago" in what_is_saved(command) and "in the course of epoch 2 or before" in what_is_saved(command)
    (tmp_path / "result.json").write_text("{}")
    assert what_is_saved(command) == f"the run in {tmp_path} is finished"


GOES_ON = "the same command goes on from there"


def test_last_words_about_many_runs_count_their_states(tmp_path):
    command = Reproduce(out=tmp_path)
    assert what_is_saved(command) == f"no run was begun in {tmp_path}"
    for name, state in (("a", "finished"), ("b", "stopped"), ("c", "finished")):
        write_state(tmp_path, name, JobState(state=state))
    assert what_is_saved(command) == f"of the runs that were ever begun in {tmp_path}, 2 finished, 1 stopped; {GOES_ON}"


def test_last_words_of_other_commands_name_the_files_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WRITTEN", {})
    assert what_is_saved(Data(name="digits")) == what_is_saved(None) == "nothing was written"
    files.write_atomically(tmp_path / "x.csv", b"")
    assert (
        what_is_saved(Data(name="digits")) == f"{tmp_path}/x.csv had been written by then, and what is there is whole"
    )
    for number in range(4):
        files.write_atomically(tmp_path / f"{number}.csv", b"")
    assert f"{tmp_path}/1.csv and 2 more files had been written" in what_is_saved(None)


@pytest.mark.parametrize(
    "words, values",
    [
        ([], {"epochs": "30", "lr": "0.1", "stages": "1", "augment": "False"}),
        (["--data", "cifar100"], {"epochs": "200", "lr": "0.1", "stages": "3", "augment": "True"}),
        (["--data=mnist"], {"epochs": "400", "lr": "0.025", "lr-divisor": "2.5", "batch-size": "128"}),
    ],
)
def test_the_help_of_train_shows_the_recipe_of_the_data(capsys, words, values):
    with pytest.raises(SystemExit):
        main(["train", *words, "--help"])
    printed = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    for name, value in values.items():
        text = printed.split(f" --{name} ")[1].split(" --")[0]
        assert f"(default: {value})" in text, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys, shell):
    assert main(["completion", shell]) == 0
    captured = capsys.readouterr()
    assert "measure" in captured.out and "iterconv" in captured.out and not captured.err
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=captured.out, text=True, check=True)
        ask = 'COMP_WORDS=(iterconv rep); COMP_CWORD=1; COMP_LINE="iterconv rep"; COMP_POINT=12; '
        name = re.search(r"complete .*-F (\w+) ", captured.out + " ")[1]
        script = f"{captured.out}\n{ask} {name} iterconv rep iterconv; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert {"report", "reproduce"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["reproduce", "--list", "--dry-run"], "--list shows all studies and scales"),
        (["report", "--stack", "0"], "--stack 0 is too small"),
        (["claims", "--stack", "65"], "--stack 65 is not in [1, 64]"),
        (["train", "--devices", "0", "--out", "OUT"], "--devices 0 is too few"),
    ],
)
def test_options_that_were_taken_without_a_word_are_refused(capsys, tmp_path, arguments, says):
    assert says in refused(capsys, *[word.replace("OUT", str(tmp_path)) for word in arguments])


@pytest.mark.medium
def test_a_finished_run_refuses_what_an_unfinished_one_would(capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", *TINY, "--stack", "4", "--out", out]) == 0
    assert "--stack 4: a single run is trained alone; sweep and reproduce" in capsys.readouterr().out
    assert "--devices 0" in refused(capsys, "train", *TINY, "--stack", "4", "--out", out, "--devices", "0")
    assert "more than the 32 images of a batch" in refused(
        capsys, "train", *TINY, "--stack", "4", "--out", out, "--device", "cpu", "--devices", "99"
    )


@pytest.mark.medium
def test_a_file_in_the_place_of_the_logs(capsys, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "logs").write_text("")
    line = refused(capsys, "train", *TINY, "--out", str(tmp_path), "--log", "tensorboard")
    assert line == f"iterconv: {tmp_path}/logs is a file where the logs' folder should be; move it away"


@pytest.mark.parametrize(
    "typed, expected",
    [
        ("4G", 4e9),
        ("4TB", 4e12),
        ("2T", 2e12),
        ("512Mi", 2**29),
        ("1KiB", 2**10),
        ("3gb", 3e9),
        ("7", 7),
        ("1.5k", 1500),
    ],
)
def test_amounts_of_memory(typed, expected):
    assert _bytes_of(typed) == expected


@pytest.mark.parametrize("typed", ["4X", "G", "4I", "4GBB", "0G"])
def test_no_amounts_of_memory(typed):
    with pytest.raises(InputError, match="is not an amount of memory; use a number and a unit, as 4GB or 512MiB"):
        _bytes_of(typed)


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("x.csv", "width,seed\n4,0\n,\n8,0\n", "entry 2: the row is empty; delete it"),
        (
            "x.yaml",
            "- {width: 4}\n- {width: [], seed: 1}\n",
            "entry 2: width has no value; give it one, or leave it out",
        ),
    ],
)
def test_what_a_sweep_would_pass_over_is_refused(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        read_sweep(tmp_path / name)


@pytest.mark.extended
@pytest.mark.medium
def test_a_sweep_reads_its_own_table_and_does_not_write_over_its_file(capsys, tmp_path):
    fields = {"data": "digits", "blocks": 2, "epochs": 1, "samples": 100, "width": [2, 4], "precision": "bf16"}
    grid, out = tmp_path / "grid.yaml", tmp_path / "runs"
    grid.write_text(json.dumps(fields))
    assert main(["sweep", str(grid), "--workers", "1", "--out", str(out)]) == 0
    assert read_sweep(out / "grid.csv") == [run.resolved() for run in read_sweep(grid)]
    capsys.readouterr()
    assert main(["sweep", str(out / "grid.csv"), "--dry-run", "--out", str(out / ".." / "runs"), "--json"]) == 2
    assert "the table of results would replace" in capsys.readouterr().err
    (tmp_path / "again.csv").write_bytes((out / "grid.csv").read_bytes())
    assert main(["sweep", str(tmp_path / "again.csv"), "--out", str(out), "--json"]) == 0
    again, _ = records(capsys)
    assert [row["width"] for row in again] == [2, 4] and {row["precision"] for row in again} == {"bf16"}
    changed = (out / "grid.csv").read_text().replace("bf16", "float32")
    (tmp_path / "again.csv").write_text(changed)
    assert "entry 1 is not" in refused(capsys, "sweep", str(tmp_path / "again.csv"), "--out", str(out))


@pytest.mark.medium
def test_clutter_is_read_by_measure_too(capsys, tmp_path):
    clutter = str(tmp_path / "clutter.safetensors")
    assert (
        main(["data", "digitclutter", "--digits", "3", "--n", "40", "--workers", "1", "--out", clutter, "--json"]) == 0
    )
    assert records(capsys)[0][0]["file"] == clutter
    assert main(["data", clutter, "--json"]) == 0
    assert records(capsys)[0][0]["test"] > 0
