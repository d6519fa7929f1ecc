"""He et al.'s ResNets for CIFAR-10, and the weights that others have published."""

import shlex

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import iterconv as ic
from commands import refused
from iterconv.cli.main import main
from iterconv.models import cifar_resnet, load_cifar_resnet
from iterconv.models.cifar_resnet import MEAN, STD
from iterconv.zoo.cifar_resnets import FAR, distance_from_training
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import open_model

WIDTHS = (16, 32, 64)
PUBLISHED = {20: (269_722, 0.085), 32: (464_154, 0.072), 44: (658_586, 0.067), 56: (853_018, 0.074)}
"""Parameters, and the error on the 1,000 lossless test images, by depth."""


def published_weights(blocks=3, classes=10, seed=0):
    """Random weights under the published names, with batch norms as after training."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=0.1):
        return torch.randn(shape, generator=generator) * scale

    def norm(name, width):
        values = {"weight": 1 + normal(width), "bias": normal(width), "running_mean": normal(width)}
        return {f"{name}.{key}": value for key, value in {**values, "running_var": 1 + normal(width).abs()}.items()}

    found = {"conv1.weight": normal(16, 3, 3, 3), **norm("bn1", 16)}
    for layer, width in enumerate(WIDTHS, 1):
        for block in range(blocks):
            before = width // 2 if layer > 1 and block == 0 else width
            name = f"layer{layer}.{block}"
            found |= {f"{name}.conv1.weight": normal(width, before, 3, 3), **norm(f"{name}.bn1", width)}
            found |= {f"{name}.conv2.weight": normal(width, width, 3, 3), **norm(f"{name}.bn2", width)}
    return {**found, "linear.weight": normal(classes, 64), "linear.bias": normal(classes)}


def forward(state, images):
    """The network as its authors define it, written out in double precision."""
    state = {name: value.double() for name, value in state.items()}

    def norm(x, name):
        mean, var, scale, bias = (
            state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + bias

    def conv(x, name, stride=1):
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1)

    z = norm(conv(images.double(), "conv1"), "bn1").clamp(min=0)
    for layer in (1, 2, 3):
        for block in range(sum(name.startswith(f"layer{layer}.") for name in state) // 10):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            hidden = norm(conv(z, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
            shortcut = torch.zeros(len(z), WIDTHS[layer - 1], z.shape[2] // stride, z.shape[3] // stride).double()
            before = (WIDTHS[layer - 1] - z.shape[1]) // 2
            shortcut[:, before : before + z.shape[1]] = z[:, :, ::stride, ::stride]
            z = (norm(conv(hidden, f"{name}.conv2"), f"{name}.bn2") + shortcut).clamp(min=0)
    return z.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of random weights, in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_file(published_weights(), "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameter_counts_are_the_published_ones(depth):
    blocks = (depth - 2) // 6
    model = cifar_resnet(blocks)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[depth][0]
    # A convolution in the stem, two in each block, and the linear layer make the depth; transitions are blocks too.
    assert 2 + 2 * (sum(len(stage) for stage in model.stages) + len(model.transitions)) == depth
    assert [len(stage) for stage in model.stages] == [blocks, blocks - 1, blocks - 1]


def test_loaded_weights_compute_what_the_authors_network_computes(weights):
    model, images = load_cifar_resnet(weights).double(), torch.randn(3, 3, 32, 32)
    assert not model.training
    torch.testing.assert_close(model(images.double()), forward(load_file(weights), images))


def test_weights_of_a_hundred_classes_and_with_counts_of_batches_are_loaded_too(weights):
    state = published_weights(blocks=2, classes=100) | {"layer1.0.bn1.num_batches_tracked": torch.tensor(7)}
    save_file(state, "hundred.safetensors")
    model = load_cifar_resnet(weights.with_name("hundred.safetensors"))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 100)


def test_it_satisfies_the_contract_and_is_the_model_that_adapt_finds(weights):
    model = load_cifar_resnet(weights)
    batches = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(2)]
    ic.verify(model, model, batches[0][0])
    adapted = ic.adapt(model, batches[0][0])
    assert [len(stage.blocks) for stage in adapted.stages] == [3, 2, 2]
    reports = [ic.measure(net, batches, extra_evaluations=2, resamples=0) for net in (model, adapted)]
    pd.testing.assert_frame_equal(reports[0].curves, reports[1].curves)
    plans = [ic.plan(net, batches, budget=2, beam=1) for net in (model, adapted)]
    pd.testing.assert_frame_equal(plans[0].frontier, plans[1].frontier)
    smaller = plans[0].apply(5)
    torch.testing.assert_close(smaller(batches[0][0]), plans[1].apply(5)(batches[0][0]))
    # Each stage is one group of blocks that can be coupled, and the branch of each block is bounded.
    assert [len(group) for group in model.coupling_groups()] == [3, 2, 2]
    audit = ic.audit(model, batches[0][0][:2], iterations=2)
    assert audit.bound.notna().all() and (audit.measured <= audit.bound * 1.001).all()


def change(state, name, value=None):
    changed = {key: tensor for key, tensor in state.items() if key != name}
    return changed if value is None else changed | {name: value}


OTHERS = {
    "a missing tensor": (lambda s: change(s, "bn1.bias"), "stem.bn1.bias should have the shape (16,), and has None"),
    "a tensor too many": (lambda s: change(s, "layer2.0.shortcut.0.weight", torch.ones(1)), "shortcut.0.weight should"),
    "another width": (lambda s: change(s, "conv1.weight", torch.ones(64, 3, 3, 3)), "and has (64, 3, 3, 3)"),
    "uneven layers": (lambda s: {k: v for k, v in s.items() if "layer3.2" not in k}, "layers have [3, 3, 2] blocks"),
    "another model": (lambda s: {"fc.weight": torch.ones(2, 2)}, "layers have [0, 0, 0] blocks"),
    "numbers of blocks with a gap": (lambda s: {k.replace("r1.2", "r1.7"): v for k, v in s.items()}, "blocks.2"),
    "not a number": (
        lambda s: change(s, "bn1.bias", torch.full((16,), torch.nan)),
        "stem.bn1.bias that are not finite",
    ),
    "whole numbers": (lambda s: change(s, "bn1.bias", torch.ones(16, dtype=torch.int)), "stem.bn1.bias that are not"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_files_of_other_networks_are_refused(capsys, weights, what):
    alter, says = OTHERS[what]
    save_file(alter(published_weights()), "other.safetensors")
    line = refused(capsys, "measure", "cifar-resnet:other.safetensors", "--data", "digits")
    assert "other.safetensors holds" in line and says in line


def test_files_that_are_missing_or_damaged_are_refused(capsys, weights):
    weights.with_name("cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    torch.save(published_weights(), "pickled.safetensors")
    weights.with_name("empty.safetensors").write_bytes(b"")
    for name in ("cut", "pickled", "empty"):
        line = refused(capsys, "measure", f"cifar-resnet:{name}.safetensors", "--data", "digits")
        assert f"can't read weights from {name}.safetensors" in line
    for name in ("nothing.safetensors", ".", "/dev/zero"):
        assert f"no weights at {name}" in refused(capsys, "measure", f"cifar-resnet:{name}", "--data", "digits")


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "a vision model needs images"),
        (["--data", "digits", "--weights", "none"], "--weights none is not for cifar-resnet:weights.safetensors"),
        (["--data", "digits", "--weights", "weights.safetensors"], "is not for cifar-resnet:weights.safetensors"),
        (["--data", "digits"], "the images of digits are unlike those that weights.safetensors was trained on"),
    ],
)
def test_bad_options_are_refused(capsys, weights, words, says):
    assert says in refused(capsys, "measure", "cifar-resnet:weights.safetensors", *words)


def test_weights_without_the_kind_are_no_model(capsys, weights):
    line = refused(capsys, "measure", "weights.safetensors", "--data", "digits")
    assert "cifar-resnet:weights.safetensors" in line


@pytest.fixture
def published(shared_data, tmp_path, monkeypatch):
    """A function from a depth to the name of a published network; CIFAR-10's test images can be loaded."""
    images = shared_data / "cifar10" / "test-00000-of-00001.parquet"
    if not images.exists() or not (shared_data / "pretrained").is_dir():
        pytest.skip("no published networks, or no CIFAR-10")
    (tmp_path / "cifar10").mkdir()
    for split in ("train", "test"):  # decoding the training images would take long, and they are not looked at
        (tmp_path / "cifar10" / f"{split}-00000-of-00001.parquet").symlink_to(images)
    monkeypatch.setenv("ITERCONV_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda depth: f"cifar-resnet:{shared_data / 'pretrained' / f'resnet{depth}-cifar10.safetensors'}"


@pytest.mark.parametrize("depth", [20, *(pytest.param(depth, marks=pytest.mark.extended) for depth in (32, 44, 56))])
@pytest.mark.medium
def test_published_networks_have_the_published_errors(published, depth):
    opened = open_model(published(depth), ModelOptions(data="cifar10"))
    with torch.no_grad():
        wrong = torch.cat([opened.model(inputs).argmax(1) != targets for inputs, targets in opened.batches])
    assert opened.against == "labels" and len(wrong) == 1000
    assert wrong.float().mean().item() == pytest.approx(PUBLISHED[depth][1], abs=1e-6)


@pytest.mark.medium
def test_images_in_another_form_are_noticed(published):
    opened = open_model(published(20), ModelOptions(data="cifar10", examples=256))
    right = torch.cat([inputs for inputs, _ in opened.batches])
    pixels = right * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert distance_from_training(opened.model, right) < FAR
    for wrong in (pixels, 255 * pixels, 2 * pixels - 1, right / 2):
        assert distance_from_training(opened.model, wrong) > FAR


@pytest.mark.medium
def test_a_smaller_model_is_planned_saved_and_measured(published, capsys, tmp_path):
    few = ["--data", "cifar10", "--examples", "64", "--batch-size", "16"]
    assert main(["plan", published(20), *few, "--budget", "5", "--blocks", "5", "--save", "small.safetensors"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "to open it: " in line]
    words = shlex.split(line.split("to open it: iterconv ")[1])
    assert main([*words, *few[2:], "--resamples", "0", "--extra-evaluations", "1"]) == 0
    smaller = open_model("small.safetensors", ModelOptions(data="cifar10", examples=64, batch_size=16))
    assert sum(len(stage) for stage in smaller.model.stages) == 5
    wrong = [(smaller.model(x).argmax(1) != y).float() for x, y in list(smaller.batches)[1::2]]
    frontier = pd.read_csv(next(tmp_path.glob("*plan-drop.csv")))
    assert torch.cat(wrong).mean().item() == pytest.approx(frontier[frontier.blocks == 5].error.item())
