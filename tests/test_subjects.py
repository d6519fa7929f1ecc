"""Foreign models on the command line: timm:NAME, hf:PATH, module:function."""

import errno
import json
import shlex
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import iterconv as ic
import zoo
from commands import TINY, refused
from iterconv.cli.main import main
from iterconv.zoo import inputs as feeding
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import open_model

pytestmark = pytest.mark.medium

MODULE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, z):
        return z + self.branch(z)

def alone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *(Block() for _ in range(4)), nn.Linear(16, 10))

def both():
    torch.manual_seed(1)
    return alone(), [(torch.randn(10, 1, 8, 8), torch.randint(10, (10,))) for _ in range(4)]

def inputs_only():
    return alone(), [torch.randn(10, 1, 8, 8) for _ in range(4)]

def nothing():
    return alone(), []

def number():
    return 3

def failing():
    raise ValueError("no\\nway")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a user's module in it."""
    (tmp_path / "users_own.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "texts.txt").write_text("\n".join(f"token{n % 7} token{n % 3} token{n % 5} the end" for n in range(40)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("users_own", None)


@pytest.fixture
def language_model(here):
    """A folder with a small GPT-2 and its tokenizer."""
    model, _ = zoo.language_model("gpt2")
    word_tokenizer().save_pretrained(here / "gpt2")
    model.save_pretrained(here / "gpt2")
    return model


def word_tokenizer():
    import tokenizers
    import transformers

    words = ["<pad>", "<s>", "</s>", "the", "end", *(f"token{n}" for n in range(9))]
    model_of_words = tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>")
    tokenizer = tokenizers.Tokenizer(model_of_words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


@pytest.mark.extended
def test_a_users_function_is_measured_as_its_model_is(here, capsys):
    arguments = ["--resamples", "20", "--families", "swap", "run drop-out", "--audit"]
    assert main(["measure", "users_own:alone", "--data", "digits", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "2:6: 4 x Block" in printed and "chance 90.00%" in printed and "contractive" in printed
    saved = ic.Report.load(here / "users_own-alone-labels.parquet")
    assert (here / "users_own-alone-labels.png").stat().st_size > 10_000
    import users_own

    digits = ic.data.load("digits")
    direct = ic.measure(users_own.alone(), digits.batches(digits.test, 64), resamples=20, families=["swap"])
    mine = saved.curves[saved.curves.perturbation != "run drop-out"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine[["stage", "position", "value"]], direct.curves[["stage", "position", "value"]])
    assert set(saved.curves.perturbation) >= {"swap", "run drop-out"}


def test_without_labels_a_model_is_measured_against_itself(here, capsys):
    assert main(["measure", "users_own:inputs_only", "--resamples", "0"]) == 0
    assert "error 0.00% of the unperturbed model against predictions" in capsys.readouterr().out


def test_a_plan_is_printed_drawn_and_made_into_a_model(here, capsys):
    assert main(["plan", "users_own:both", "--budget", "1", "--blocks", "2", "--save", "small.safetensors"]) == 0
    assert "the model of 2 blocks is in small.safetensors" in capsys.readouterr().out
    frontier = pd.read_csv("users_own-both-plan-drop.csv")
    assert frontier.blocks.tolist() == [4, 3, 2, 1]
    assert (here / "users_own-both-plan-drop.png").stat().st_size > 10_000
    import users_own
    from safetensors.torch import load_file

    model, batches = users_own.both()
    [route] = eval(frontier[frontier.blocks == 2].route.item())
    smaller = nn.Sequential(*list(model)[:2], *(model[2 + block] for block in route), model[6])
    smaller.load_state_dict(load_file("small.safetensors"))
    wrong = [(smaller(inputs).argmax(1) != targets).float().mean().item() for inputs, targets in batches[1::2]]
    assert np.mean(wrong) == pytest.approx(frontier[frontier.blocks == 2].error.item())


def test_a_plan_that_shares_weights(here):
    assert main(["plan", "users_own:both", "--mode", "share", "--out", "w.csv"]) == 0
    assert pd.read_csv("w.csv").distinct.tolist() == [4, 3, 2, 1]


@pytest.mark.extended
def test_timm_models_see_images_as_they_were_trained_on(here, capsys):
    model, _ = zoo.timm_model("resnet18", in_chans=1)
    torch.save(model.state_dict(), "weights.pt")
    subject = open_model("timm:resnet18", ModelOptions(data="digits", weights="weights.pt", examples=5, batch_size=2))
    inputs, targets = subject.batches[0]
    assert inputs.shape == (2, 1, 224, 224) and len(targets) == 2 and subject.against == "labels"
    assert len(subject.batches) == 3 and len(subject.batches[-1][1]) == 1
    for name, parameter in model.named_parameters():
        assert torch.equal(subject.model.model.get_parameter(name), parameter)
    options = ModelOptions(data="digits", weights="none", examples=2, stages=("layer2",))
    with pytest.raises(ic.InputError, match="makes .* of .*name runs that keep the shape"):
        open_model("timm:resnet18", options)
    arguments = ["--data", "digits", "--weights", "none", "--examples", "2", "--extra-evaluations", "1"]
    assert main(["measure", "timm:resnet18", *arguments, "--resamples", "0"]) == 0
    assert "its 1000 outputs are not the 10 classes, so its own predictions" in capsys.readouterr().out


def test_language_models_are_measured_by_their_next_tokens_and_planned(here, language_model, capsys):
    assert main(["measure", "hf:gpt2", "--data", "texts.txt", "--resamples", "50", "--extra-evaluations", "2"]) == 0
    printed = capsys.readouterr().out
    assert "next-token error" in printed and "transformer.h: 4 x GPT2Block" in printed and "chance 98.00%" in printed
    report = ic.Report.load("gpt2-labels.parquet")
    assert report.options["resampled_units"] == 40 and report.options["examples"] == 40 * 4
    assert (
        main(["plan", "hf:gpt2", "--data", "texts.txt", "--batch-size", "10", "--blocks", "2", "--save", "small"]) == 0
    )
    smaller = open_model("hf:small", ModelOptions(data="texts.txt"))
    assert len(smaller.model.stages[0].blocks) == 2


def test_bare_encoders_are_measured_by_their_embeddings(here, capsys):
    _, batch = zoo.language_model("vit")
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained("encoder")
    subject = open_model("hf:encoder", ModelOptions(data="digits", examples=30, batch_size=16))
    report = ic.measure(subject.model, subject.batches, resamples=0)
    assert report.intact_error == 0 and report.options["chance"] == pytest.approx(29 / 30)
    assert batch["pixel_values"].shape[1] == subject.batches[0][0]["pixel_values"].shape[1] == 3


def test_half_precision_takes_single_precision_batches(here):
    subject = open_model("users_own:both", ModelOptions(precision="bfloat16"))
    report = ic.measure(subject.model, subject.batches, resamples=0)
    plan = ic.plan(subject.model, subject.batches, budget=2)
    assert next(subject.model.parameters()).dtype == torch.bfloat16
    whole = ic.measure(open_model("users_own:both", ModelOptions()).model, subject.batches, resamples=0)
    assert report.curves.value.notna().all() and len(plan.frontier) == 3
    difference = (report.curves.value - whole.curves.value).abs()[whole.curves.metric == "cross_entropy"]
    assert 0 < difference.max() < 0.1


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["measure", ":x"], "importing '' raised ValueError: Empty module name"),
        (["measure", "broken:f"], "importing 'broken' raised SyntaxError"),
        (["measure", "users_own:failing"], "users_own:failing() raised ValueError: no way"),
        (["measure", "users_own:number"], "returned int, no torch module"),
        (["measure", "users_own:nowhere"], "has no function 'nowhere'"),
        (["measure", "no_such_module:model"], "there is no module 'no_such_module'"),
        (["measure", "users_own:alone"], "returned a model alone; pass --data"),
        (["measure", "users_own:nothing"], "comes with no batches"),
        (["measure", "users_own:alone", "--data", "digits", "--stages", "where"], "no module 'where'"),
        (["measure", "users_own:both", "--batch-size", "0"], "--batch-size 0 is too few; use 1 or more"),
        (["measure", "users_own:both", "--out", "report.txt"], "no known format"),
        (["measure", "users_own:both", "--out", "/proc/report.json"], "can't write to /proc"),
        (["measure", "users_own:both", "--weights", "none"], "--weights none is not for users_own:both"),
        (["measure", "users_own:both", "--device", "nonsense"], "device 'nonsense' is not there"),
        (["measure", ".", "--data", "digits"], "--data is for foreign models"),
        (["measure", "."], "there is no config.json; name the folder of a run"),
        (["plan", "users_own:both", "--budget", "9"], "--budget 9 is not in"),
        (["plan", "users_own:both", "--blocks", "2"], "--blocks and --save belong together"),
        (["plan", "users_own:both", "--blocks", "2", "--save", "x.pt"], "let it end in .safetensors"),
        (["plan", "users_own:both", "--out", "x.parquet"], "let it end in .csv"),
        (["plan", "users_own:both", "--beam", "0"], "--beam 0"),
        (
            ["plan", "users_own:both", "--blocks", "9", "--save", "x.safetensors"],
            "--blocks 9 is out of reach; use 1 to 4",
        ),
    ],
)
def test_bad_words_get_one_line_and_exit_code_2(capsys, here, arguments, says):
    assert says in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["timm:resnet_18", "--data", "digits"], "timm has no model 'resnet_18'; did you mean"),
        (["timm:resnet18"], "a vision model needs images"),
        (["timm:resnet18", "--weights", "no.pt", "--data", "digits"], "there are no weights at no.pt"),
        (["timm:resnet18", "--weights", "texts.txt", "--data", "digits"], "can't read weights from texts.txt"),
        (["timm:resnet18", "--weights", "other.pt", "--data", "digits"], "other.pt holds no weights of resnet18"),
        (["hf:gpt2"], "needs texts; pass --data FILE"),
        (["hf:gpt2", "--data", "nope.txt"], "there is no file nope.txt"),
        (["hf:gpt2", "--data", "users_own.py"], "users_own.py is no file of texts"),
        (["hf:gpt2", "--data", "empty.txt"], "holds no text"),
        (["hf:gpt2", "--data", "table.csv"], "has the columns a, b; name the texts' one `text`"),
        (["hf:gpt2", "--data", "texts.txt", "--weights", "x.pt"], "--weights x.pt is not for hf:gpt2"),
        (["hf:/nowhere", "--data", "texts.txt"], "can't load hf:/nowhere"),
    ],
)
def test_bad_libraries_words_get_one_line(capsys, here, language_model, arguments, says):
    torch.save({"a": torch.ones(2)}, "other.pt")
    (here / "empty.txt").write_text("\n\n")
    (here / "table.csv").write_text("a,b\n1,2\n")
    assert says in refused(capsys, "measure", *arguments)


def test_tokens_of_a_sequence_are_resampled_together():
    from iterconv.measuring.bootstrap import resampled_means

    rng = np.random.default_rng(0)
    units = np.array([4, 4, 4, 7, 7, 9])
    rows = rng.normal(size=(3, 6))
    means = resampled_means(rows, 500, 3, units)
    assert means[:, 0] == pytest.approx(rows.mean(1))
    drawn = np.random.default_rng(3)
    groups = [np.flatnonzero(units == unit) for unit in (4, 7, 9)]
    for column in range(1, 501):
        chosen = np.concatenate([groups[group] for group in drawn.integers(3, size=3)])
        assert means[:, column] == pytest.approx(rows[:, chosen].mean(1), abs=1e-5)
    single = resampled_means(rows, 500, 3)
    assert means[:, 1:].std() != pytest.approx(single[:, 1:].std(), rel=1e-3)


def reopened(capsys):
    """The command that `plan --save` printed, as words."""
    [line] = [line for line in capsys.readouterr().out.splitlines() if "to open it: " in line]
    words = shlex.split(line.split("to open it: iterconv ")[1])
    return [words[0], words[1], "--resamples", "0", "--extra-evaluations", "1", *words[2:]]


@pytest.mark.extended
def test_a_smaller_model_of_a_users_function_is_opened_with_the_function_only(here, capsys):
    assert main(["plan", "users_own:both", "--budget", "1", "--blocks", "3", "--save", "a small.safetensors"]) == 0
    words = reopened(capsys)
    assert words[1] == "users_own:both" and words[-2:] == ["--weights", "a small.safetensors"]
    assert main(words) == 0
    assert "2:5: 3 x Block" in capsys.readouterr().out
    assert (here / "a small.safetensors").stat().st_mode & 0o777 == (here / "users_own.py").stat().st_mode & 0o777
    sys.modules.pop("users_own")
    line = refused(capsys, "measure", "a small.safetensors")
    assert "whose code is only run when you name it: pass users_own:both --weights 'a small.safetensors'" in line
    assert "users_own" not in sys.modules
    line = refused(capsys, "measure", "users_own:inputs_only", "--weights", "a small.safetensors")
    assert "no smaller model of it is there" in line
    assert main(["plan", *words[1:2], *words[-2:], "--budget", "1", "--blocks", "2", "--save", "two.safetensors"]) == 0
    twice = reopened(capsys)
    assert main(twice) == 0 and "2:4: 2 x Block" in capsys.readouterr().out


def test_a_smaller_run_is_opened_by_its_file_alone(here, capsys):
    assert main(["train", *TINY, "--blocks", "4", "--stages", "2", "--out", "run"]) == 0
    assert main(["plan", "run", "--blocks", "5", "--budget", "5", "--save", "small.safetensors"]) == 0
    assert "plan-drop.csv" in {path.name for path in (here / "run").iterdir()}
    frontier = pd.read_csv(here / "run" / "plan-drop.csv")
    shutil.rmtree("run")
    assert reopened(capsys)[:2] == ["measure", "small.safetensors"]
    subject = open_model("small.safetensors", ModelOptions())
    subject.model.eval()
    assert sum(len(stage.blocks) for stage in subject.model.stages) == 5
    wrong = [(subject.model(x).argmax(1) != y).float() for x, y in list(subject.batches)[1::2]]
    assert torch.cat(wrong).mean().item() == pytest.approx(frontier[frontier.blocks == 5].error.item())
    contents = bytearray((here / "small.safetensors").read_bytes())
    contents[-9] ^= 1
    (here / "small.safetensors").write_bytes(contents)
    assert "is damaged" in refused(capsys, "measure", "small.safetensors")


@pytest.mark.extended
def test_a_smaller_model_of_timm_is_opened_by_its_file_alone(here, capsys):
    few = ["--data", "digits", "--examples", "4", "--batch-size", "2"]
    name = "timm:vit_tiny_patch16_224"
    zoo.torchvision()
    arguments = ["--weights", "none", *few, "--budget", "11", "--blocks", "11", "--save", "small.safetensors"]
    assert main(["plan", name, *arguments]) == 0
    words = reopened(capsys)
    assert main([*words, *few[2:]]) == 0
    assert "blocks: 11 x Block" in capsys.readouterr().out
    assert main(["measure", name, "--weights", "small.safetensors", *words[2:], *few[2:]]) == 0
    assert "blocks: 11 x Block" in capsys.readouterr().out
    assert "not a file that `iterconv plan --save` wrote" in refused(capsys, "measure", "none.safetensors")


@pytest.mark.parametrize("head", ["{", "[1]", '{"format": "iterconv smaller model 2", "model": "timm:x", "steps": []}'])
def test_files_that_only_say_that_they_are_smaller_models(here, capsys, head):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, "x.safetensors", metadata={"iterconv": head})
    assert "x.safetensors is damaged" in refused(capsys, "measure", "x.safetensors", "--data", "digits")


def test_a_model_that_brings_code_is_refused_without_a_question(here, language_model, capsys, monkeypatch):
    config = json.loads((here / "gpt2" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    (here / "gpt2" / "config.json").write_text(json.dumps(config))
    (here / "gpt2" / "configuration_own.py").write_text("open('executed', 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    line = refused(capsys, "measure", "hf:gpt2", "--data", "texts.txt")
    assert "can't load hf:gpt2" in line and not (here / "executed").exists()


def test_functions_that_leave_the_program_are_told(here, capsys):
    assert "sys:exit() raised SystemExit" in refused(capsys, "measure", "sys:exit", "--data", "digits")
    (here / "leaving.py").write_text("raise SystemExit(0)")
    assert "importing 'leaving' raised SystemExit" in refused(capsys, "measure", "leaving:f")


def test_labels_that_are_not_there_are_not_taken_for_labels(here, capsys):
    zoo.torchvision()
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, vocab_size=50, num_labels=2))
    word_tokenizer().save_pretrained("classifier")
    model.save_pretrained("classifier")
    rows = pd.DataFrame({"sentence": ["token1 the end", "token2 the end"] * 4, "label": -1})
    rows.to_csv("glue.csv", index=False)
    subject = open_model("hf:classifier", ModelOptions(data="glue.csv"))
    assert subject.against == "predictions"
    assert ic.measure(subject.model, subject.batches, against="predictions", resamples=0).intact_error == 0
    rows.assign(label=[0, 1] * 4).to_csv("known.csv", index=False)
    assert open_model("hf:classifier", ModelOptions(data="known.csv")).against == "labels"


def test_texts_are_looked_for_in_all_rows(here):
    (here / "late[1].csv").write_text("text\n" + '""\n' * 50 + "\n".join(f"text {n}" for n in range(20)))
    found, labels = feeding.texts("late[1].csv", 10)
    assert found == [f"text {n}" for n in range(10)] and labels is None


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--blocks", "0"], "--blocks 0 is out of reach; use 1 to 4"),
        (["--blocks", "2", "--save", "folder.safetensors"], "--save folder.safetensors is a folder; name a file"),
        (["--blocks", "2", "--save", "x" * 250 + ".safetensors"], "File name too long); choose another --save"),
        (["--blocks", "2", "--save", "/dev/full/x.safetensors"], "can't write to /dev/full/x.safetensors"),
        (["--out", "folder.csv"], "--out folder.csv is a folder; name a file"),
        (["--budget", "inf"], "--budget inf is not in"),
        (["--budget", "nan"], "--budget nan is not in"),
    ],
)
def test_a_plan_is_refused_before_the_search(here, capsys, monkeypatch, arguments, says):
    (here / "folder.safetensors").mkdir()
    (here / "folder.csv").mkdir()
    monkeypatch.setattr("iterconv.planning.planning.compare", lambda *_: pytest.fail("searched"))
    before = sorted(here.rglob("*"))
    saving = ["--save", "s.safetensors"] if "--blocks" in arguments and "--save" not in arguments else []
    line = refused(capsys, "plan", "users_own:both", *arguments, *saving)
    assert says in line
    assert [path for path in sorted(here.rglob("*")) if "pycache" not in str(path)] == before


def test_one_batch_cannot_be_halved_and_the_option_is_named(here, capsys):
    line = refused(capsys, "plan", "users_own:alone", "--data", "digits", "--batch-size", "400")
    assert line.startswith("iterconv: --batch-size 400 makes one batch")


def test_a_report_onto_a_folder_or_a_full_disk(here, capsys, monkeypatch):
    (here / "r.json").mkdir()
    (here / "q.png").mkdir()
    assert "--out r.json is a folder" in refused(capsys, "measure", "users_own:both", "--out", "r.json")
    assert "--out q.png is a folder" in refused(capsys, "measure", "users_own:both", "--out", "q.json")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("iterconv.measuring.report.write_atomically", full)
    line = refused(capsys, "measure", "users_own:both", "--out", "p.json", "--resamples", "0")
    assert line == "iterconv: can't write p.json (No space left on device); make room, or name another file"
