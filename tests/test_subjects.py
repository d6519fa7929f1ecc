"""Foreign models on the command line: timm:NAME, hf:PATH, module:function."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import iterconv as ic
import zoo
from iterconv.cli import main
from iterconv.subjects import open_subject
from iterconv.subjects.wishes import Wishes
from test_cli import refused

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
    import tokenizers
    import transformers

    words = ["<pad>", "<s>", "</s>", "the", "end", *(f"token{n}" for n in range(9))]
    model_of_words = tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>")
    tokenizer = tokenizers.Tokenizer(model_of_words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(here / "gpt2")
    model.save_pretrained(here / "gpt2")
    return model


def test_a_users_function_is_measured_as_its_model_is(here, capsys):
    arguments = ["--replicates", "20", "--further", "swap", "run drop-out", "--audit"]
    assert main(["measure", "users_own:alone", "--data", "digits", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "2:6: 4 x Block" in printed and "chance 90.00%" in printed and "contractive" in printed
    saved = ic.Report.load(here / "users_own-alone-labels.parquet")
    assert (here / "users_own-alone-labels.png").stat().st_size > 10_000
    import users_own

    digits = ic.data.load("digits")
    direct = ic.measure(users_own.alone(), digits.batches(digits.test, 64), replicates=20, further=["swap"])
    mine = saved.curves[saved.curves.perturbation != "run drop-out"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine[["stage", "position", "value"]], direct.curves[["stage", "position", "value"]])
    assert set(saved.curves.perturbation) >= {"swap", "run drop-out"}


def test_without_labels_a_model_is_measured_against_itself(here, capsys):
    assert main(["measure", "users_own:inputs_only", "--replicates", "0"]) == 0
    assert "error 0.00% of the unperturbed model against predictions" in capsys.readouterr().out


def test_a_plan_is_printed_drawn_and_made_into_a_model(here, capsys):
    assert main(["plan", "users_own:both", "--budget", "1", "--keep", "2", "--save", "small.safetensors"]) == 0
    assert "the model of 2 blocks is in small.safetensors" in capsys.readouterr().out
    frontier = pd.read_csv("users_own-both-plan-blocks.csv")
    assert frontier.blocks.tolist() == [4, 3, 2, 1]
    assert (here / "users_own-both-plan-blocks.png").stat().st_size > 10_000
    import users_own
    from safetensors.torch import load_file

    model, batches = users_own.both()
    [route] = eval(frontier[frontier.blocks == 2].route.item())
    smaller = nn.Sequential(*list(model)[:2], *(model[2 + block] for block in route), model[6])
    smaller.load_state_dict(load_file("small.safetensors"))
    wrong = [(smaller(inputs).argmax(1) != targets).float().mean().item() for inputs, targets in batches[1::2]]
    assert np.mean(wrong) == pytest.approx(frontier[frontier.blocks == 2].error.item())


def test_a_plan_that_shares_weights(here):
    assert main(["plan", "users_own:both", "--saves", "weights", "--out", "w.csv"]) == 0
    assert pd.read_csv("w.csv").distinct.tolist() == [4, 3, 2, 1]


def test_timm_models_see_images_as_they_were_trained_on(here, capsys):
    model, _ = zoo.timm_model("resnet18", in_chans=1)
    torch.save(model.state_dict(), "weights.pt")
    subject = open_subject("timm:resnet18", Wishes(data="digits", weights="weights.pt", examples=20, batch_size=8))
    inputs, targets = subject.batches[0]
    assert inputs.shape == (8, 1, 224, 224) and len(targets) == 8 and subject.reference == "labels"
    assert len(subject.batches) == 3 and len(subject.batches[-1][1]) == 4
    for name, parameter in model.named_parameters():
        assert torch.equal(subject.model.model.get_parameter(name), parameter)
    wishes = Wishes(data="digits", weights="none", examples=6, stages=("layer2",))
    with pytest.raises(ic.InputError, match="makes .* of .*name runs that keep the shape"):
        open_subject("timm:resnet18", wishes)
    arguments = ["--data", "digits", "--weights", "none", "--examples", "8", "--extra-evaluations", "1"]
    assert main(["measure", "timm:resnet18", *arguments, "--replicates", "0"]) == 0
    assert "its 1000 outputs are not the 10 classes, so its own predictions" in capsys.readouterr().out


def test_language_models_are_measured_by_their_next_tokens_and_planned(here, language_model, capsys):
    assert main(["measure", "hf:gpt2", "--data", "texts.txt", "--replicates", "50", "--extra-evaluations", "2"]) == 0
    printed = capsys.readouterr().out
    assert "next-token error" in printed and "transformer.h: 4 x GPT2Block" in printed and "chance 98.00%" in printed
    report = ic.Report.load("gpt2-labels.parquet")
    assert report.options["resampled_units"] == 40 and report.options["examples"] == 40 * 4
    assert main(["plan", "hf:gpt2", "--data", "texts.txt", "--batch-size", "10", "--keep", "2", "--save", "small"]) == 0
    smaller = open_subject("hf:small", Wishes(data="texts.txt"))
    assert len(smaller.model.stages[0].blocks) == 2


def test_bare_encoders_are_measured_by_their_embeddings(here, capsys):
    _, batch = zoo.language_model("vit")
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained("encoder")
    subject = open_subject("hf:encoder", Wishes(data="digits", examples=30, batch_size=16))
    report = ic.measure(subject.model, subject.batches, replicates=0)
    assert report.intact_error == 0 and report.options["chance"] == pytest.approx(29 / 30)
    assert batch["pixel_values"].shape[1] == subject.batches[0][0]["pixel_values"].shape[1] == 3


def test_half_precision_takes_single_precision_batches(here):
    subject = open_subject("users_own:both", Wishes(precision="bfloat16"))
    report = ic.measure(subject.model, subject.batches, replicates=0)
    plan = ic.plan(subject.model, subject.batches, budget=2)
    assert next(subject.model.parameters()).dtype == torch.bfloat16
    whole = ic.measure(open_subject("users_own:both", Wishes()).model, subject.batches, replicates=0)
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
        (["measure", "users_own:both", "--batch-size", "0"], "have to be 1 or more"),
        (["measure", "users_own:both", "--precision", "quarter"], "invalid choice 'quarter'"),
        (["measure", "users_own:both", "--out", "report.txt"], "no known format"),
        (["measure", "users_own:both", "--out", "/proc/report.json"], "can't write to /proc"),
        (["measure", "users_own:both", "--weights", "none"], "--weights none is not for users_own:both"),
        (["measure", "users_own:both", "--device", "nonsense"], "device 'nonsense' is not there"),
        (["measure", "users_own:both", "--further", "jump"], "invalid choice 'jump'"),
        (["measure", "a_run", "--data", "digits"], "--data is for foreign models"),
        (["measure", "a_run"], "there is no"),
        (["plan", "users_own:both", "--budget", "9"], "--budget 9 is not in"),
        (["plan", "users_own:both", "--keep", "2"], "--keep and --save belong together"),
        (["plan", "users_own:both", "--keep", "2", "--save", "x.pt"], "let it end in .safetensors"),
        (["plan", "users_own:both", "--out", "x.parquet"], "let it end in .csv"),
        (["plan", "users_own:both", "--beam", "0"], "--beam 0"),
        (["plan", "users_own:both", "--keep", "9", "--save", "x.safetensors"], "blocks=9 is not on the frontier"),
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
    from iterconv.measurement import resampled_means

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
