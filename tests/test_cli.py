import dataclasses
import json
import subprocess
import sys

import pytest

from commands import TINY, refused
from iterconv import data
from iterconv.cli.main import main


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["train", "--coupling", "1.5"], "--coupling 1.5 is not in [0, 1]"),
        (["train", "--width", "0"], "--width 0 is not in [1, 65536]"),
        (["train", "--lr", "nan"], "--lr nan"),
        (["train", "--data", "digitz", "--out", "OUT"], "did you mean 'digits'?"),
        (["train", "--data", "digits", "--samples", "5", "--out", "OUT"], "less than one for each of 10 classes"),
        (["train", "--device", "nonsense", "--out", "OUT"], "device 'nonsense' is not there"),
        (["train", "--device", "meta", "--out", "OUT"], "device 'meta' is not there"),
        (["train", "--seed", "99999999999999999999"], "is not in [0, 4294967295]"),
        (["reproduce", "fig99"], "no study 'fig99'"),
        (["reproduce", "--scale", "huge"], "no scale 'huge'"),
        (["reproduce", "--workers", "0", "--out", "OUT"], "--workers 0"),
        (["report", "--out", "OUT"], "no run of scale 'quick' is finished"),
        (
            ["measure", "OUT"],
            "there is no run OUT; pass the folder of a run, timm:NAME, hf:PATH, cifar-resnet:PATH or module:function",
        ),
        (["measure", "OUT", "--data", "digits"], "there is no run OUT; pass the folder of a run"),
        # These are refused before the model is opened, which is not there.
        (["measure", "timm:no", "--families", "swa"], "--families swa is unknown; use a list of 'early read-out'"),
        (["measure", "timm:no", "--resamples", "-1"], "--resamples -1 is too small"),
        (["measure", "timm:no", "--extra-evaluations", "0"], "--extra-evaluations 0 leaves nothing to repeat"),
        (["measure", "timm:no", "--out", "OUT/x.txt"], "x.txt has no known format"),
        (["plan", "timm:no", "--beam", "0"], "--beam 0 keeps no route"),
        (["plan", "timm:no", "--out", "OUT/x.txt"], "x.txt does not name a table"),
        (["data", "mnits"], "did you mean 'mnist'?"),
        (["frobnicate"], "there is no command 'frobnicate'; use reproduce, train, measure, plan, "),
        (["mesure", "runs/x"], "there is no command 'mesure'; did you mean 'measure'?"),
        ([], "the command is missing; use reproduce, train"),
        (["claims", "--out", "OUT"], "no run of scale 'quick' is finished"),
        (["claims", "OUT"], "holds no tables"),
        (["claims", "OUT", "--scale", "small"], "--scale, --out and --stack are for finished runs"),
        (["reproduce", "--dry-run", "--workers", "0"], "--workers 0"),
        (["train", "--evaluation-samples", "0"], "--evaluation-samples 0 is not in [1, 1e12]"),
        # Values may look like options: only options themselves are spelled as they are typed.
        (["train", "--out", "/proc/lr=0.1"], "can't write to /proc/lr=0.1 ("),
        (["data", "sets/seed=3/x"], "there is no data set 'sets/seed=3/x'"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(capsys, tmp_path, arguments, says):
    out = str(tmp_path / "out")
    assert says.replace("OUT", out) in refused(capsys, *[word.replace("OUT", out) for word in arguments])


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["train", "--width", "eight"], "--width: 'eight' is not a whole number; `iterconv train --help`"),
        (["train", "--epochs", "1e3"], "--epochs: '1e3' is not a whole number"),
        (["plan", "runs/x", "--budget", "half"], "--budget: 'half' is not a number"),
        (["train", "--widht", "8"], "train has no option --widht; did you mean '--width'?"),
        (["train", "--widht=8"], "train has no option --widht; did you mean '--width'?"),
        (["measure", "m:f", "--mode", "drop"], "measure has no option --mode; `iterconv measure --help` lists"),
        (["measure", "m:f", "--zzz"], "measure has no option --zzz; `iterconv measure --help` lists what it takes"),
        (["measure", "m:f", "more"], "measure does not take the word 'more'; `iterconv measure --help`"),
        (["plan", "m:f", "--mode", "dropp"], "--mode dropp is unknown; use 'drop', 'share' or 'repeat'"),
        (["measure", "m:f", "--against", "x"], "--against x is unknown; use 'labels' or 'predictions'"),
        (["completion", "tcsh"], "shell tcsh is unknown; use 'bash', 'zsh' or 'fish'"),
        (["settle", "m:f", "--span", "1"], "--span takes INT INT, not '1'"),
        (["train", "--lr"], "--lr lacks its value; give it one, or leave the option out"),
        (["train", "--log", "--width", "8"], "--log lacks its value; give it one, or leave the option out"),
        (["train", "--log"], "--log lacks its value; give it one, or leave the option out"),
        (["exits", "x", "--resamples", "1"], "--resamples 1 makes intervals of one point; use some hundred, or 0"),
        (["measure"], "measure lacks a word: the folder of a finished run, timm:NAME"),
        (["--foo"], "there is no command '--foo'; use reproduce, train"),
    ],
)
def test_words_that_cannot_be_parsed_get_one_line_too(capsys, arguments, says):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    assert captured.err.startswith(f"iterconv: {says}")


@pytest.mark.medium
def test_train_measure_and_refusals_on_a_real_run(capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", *TINY, "--coupling", "0.5", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "test error" in printed and "convergence" in printed and "stage 1" in printed
    assert json.loads((tmp_path / "run" / "config.json").read_text())["coupling"] == 0.5
    assert "holds another run (coupling is 0.5 there, 0.9 here)" in refused(
        capsys, "train", *TINY, "--coupling", "0.9", "--out", out
    )

    assert main(["measure", out, "--against", "predictions", "--resamples", "20", "--audit"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "run" / "report-predictions.parquet").exists() and "contractive" in printed
    assert (tmp_path / "run" / "report-predictions.png").stat().st_size > 10_000
    assert "no known format" in refused(capsys, "measure", out, "--out", str(tmp_path / "x.txt"))
    assert "--extra-evaluations 0" in refused(capsys, "measure", out, "--extra-evaluations", "0")
    assert "--families jump is unknown; use a list of" in refused(capsys, "measure", out, "--families", "swap", "jump")


def test_folders_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    below_a_file = str(tmp_path / "file" / "run")
    assert "can't write to" in refused(capsys, "train", *TINY, "--out", below_a_file)
    assert "can't write to" in refused(capsys, "reproduce", "--out", below_a_file)
    # Not even root can write here.
    assert "can't write to" in refused(capsys, "train", *TINY, "--out", "/proc/iterconv")


@pytest.mark.medium
def test_list_and_data_and_help(capsys):
    assert main(["reproduce", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("quick", "small", "paper", "fig2", "fig12", "about"))
    assert main(["data", "digits"]) == 0
    assert "1294 training, 144 validation and 359 test images of 8 x 8 pixels" in capsys.readouterr().out
    with pytest.raises(SystemExit) as leaving:
        main(["train", "--help"])
    assert leaving.value.code == 0 and "--coupling FLOAT" in capsys.readouterr().out


@pytest.mark.medium
def test_a_refused_command_does_not_claim_its_folder(capsys, tmp_path):
    out = str(tmp_path / "run")
    refused(capsys, "train", "--data", "digits", "--samples", "3", "--out", out)
    assert main(["train", *TINY, "--out", out]) == 0


def test_a_network_that_does_not_fit_into_memory(capsys, tmp_path, monkeypatch):
    def allocate(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("iterconv.training.run.train", allocate)
    line = refused(capsys, "train", *TINY, "--out", str(tmp_path / "run"))
    assert "out of memory; use a smaller --width" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--stages", "5"], "--stages 5 halve maps of 8 pixels"),
        (["--stages", "100000"], "--stages 100000 is not in [1, 16]; use a number in this range"),
        (["--blocks", "1000000"], "--blocks 1000000 is not in [1, 10000]"),
        (["--width", "99999999999999999999"], "--width 99999999999999999999 is not in [1, 65536]"),
        (["--width", "65536"], "width=65536, blocks=2, stages=1, classes=10 would take 768 GiB of memory"),
        (["--norm-scale", "1e300"], "--norm-scale 1e+300 is not in (0, 3.4e+38]"),
        (["--weight-decay", "1e300"], "--weight-decay 1e+300 is not in [0, 3.4e+38]"),
        (["--lr-divisor", "1e-300"], "--lr-divisor 1e-300 is too small"),
        (["--samples", "30", "--selection", "validation"], "too few images for a validation split"),
        (["--lr", "1e30"], "the loss became nan in epoch 1; lower --lr (now 1e+30)"),
    ],
)
def test_what_can_be_refused_leaves_no_folder(capsys, tmp_path, monkeypatch, arguments, says):
    if "--samples" in arguments:
        whole = data.load("digits")
        few = dataclasses.replace(whole, validation=whole.validation[:0])
        monkeypatch.setattr("iterconv.training.run.load_data", lambda *_: few)
    assert says in refused(capsys, "train", *TINY, *arguments, "--out", str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_digitclutter_is_written_whole_with_its_checksum(capsys, tmp_path):
    from iterconv.data.digitclutter import generate
    from iterconv.files import read_tensors

    out = tmp_path / "new" / "clutter.safetensors"
    arguments = ["data", "digitclutter", "--digits", "3", "--n", "20", "--seed", "4", "--workers", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "20 images of 3 digits" in capsys.readouterr().out
    assert (read_tensors(out)["images"].numpy() == generate(20, 3, seed=4, masks=False).images).all()
    assert "--out is missing" in refused(capsys, *arguments)
    assert "--digits 11" in refused(capsys, "data", "digitclutter", "--digits", "11", "--out", str(out))
    assert "--out are for digitclutter" in refused(capsys, "data", "digits", "--out", str(out))


@pytest.mark.medium
def test_paths_are_not_taken_for_markup_and_finished_runs_say_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--out", "[/x]"]) == 0
    first = capsys.readouterr()
    assert "on digits for 1 epochs, in [/x]" in first.out.splitlines()[0]
    assert "everything in [/x]" in first.out and "nothing was left to do" not in first.out
    assert main(["train", *TINY, "--out", "[/x]"]) == 0
    again = capsys.readouterr()
    assert "it was finished before: nothing was left to do" in again.out and not again.err
    (tmp_path / "[/x]" / "report.parquet").write_bytes(b"damaged")
    assert refused(capsys, "train", *TINY, "--out", "[/x]").startswith("iterconv: [/x]/report.parquet")


def test_a_bar_leaves_no_trace_above_an_error(capsys):
    from iterconv.cli.console import bar

    with pytest.raises(RuntimeError), bar("steps", 10) as advance:
        advance(5)
        raise RuntimeError
    assert "steps" not in capsys.readouterr().err


def test_version_and_recipes(capsys):
    for arguments, says in (["--version"], "iterconv 0."), (["train", "--help"], "cifar10 "):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 0 and says in capsys.readouterr().out


def test_only_what_goes_on_says_so_after_ctrl_c(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("iterconv.files.WRITTEN", {})

    def interrupted(*_, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("iterconv.cli.runs.describe_data", interrupted)
    monkeypatch.setattr("iterconv.cli.runs.train", interrupted)
    assert main(["data", "digits"]) == 130
    assert capsys.readouterr().err == "iterconv: stopped; nothing was written\n"
    assert main(["train", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "iterconv: stopped; nothing was saved, and the same command begins anew\n"


@pytest.mark.medium
def test_clutter_that_was_made_can_be_trained_on(capsys, tmp_path):
    out = str(tmp_path / "clutter.safetensors")
    assert main(["data", "digitclutter", "--digits", "3", "--n", "60", "--workers", "1", "--out", out]) == 0
    assert f"iterconv train --data {out}" in capsys.readouterr().out
    small = ["--width", "2", "--blocks", "2", "--stages", "1", "--epochs", "1"]
    assert main(["train", "--data", out, *small, "--out", str(tmp_path / "run")]) == 0
    from safetensors.torch import save_file
    from torch import ones

    save_file({"a": ones(1)}, out)
    assert "holds no images" in refused(capsys, "data", out)


def test_an_empty_word_is_no_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out", ""]) == 2
    assert capsys.readouterr().err == "iterconv: one of the words is empty; give it a value, or leave the option out\n"
    assert not list(tmp_path.iterdir())


def test_a_word_that_cannot_be_parsed_gets_its_line_in_a_process_of_its_own():
    words = [sys.executable, "-m", "iterconv", "plan", "m:f", "--mode", "dropp"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "iterconv: --mode dropp is unknown; use 'drop', 'share' or 'repeat'\n"
