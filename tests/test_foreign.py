"""Every path of every model of others: equal to a patched pass of the model itself bit by bit, or refused in a line."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import iterconv as ic
import patched
from foreign_models import MODELS
from iterconv.paths.evaluate import evaluate, full_route
from own_models import OWN

pytestmark = pytest.mark.medium

ALL = {**{f"own/{name}": make for name, make in OWN.items()}, **MODELS}


def paths_of(number):
    """Dropped, read out early, repeated, exchanged."""
    full = tuple(range(number))
    middle = number // 2
    dropped = [(*full[:block], *full[block + 1 :]) for block in {0, middle, number - 1}]
    return [*dropped, full[:1], (0, *full), (*full, number - 1, number - 1), (*full[:-2], number - 1, number - 2)]


@contextlib.contextmanager
def without_fast_path():
    """Torch's transformer layers run module by module when they are measured, as their fast path bypasses modules."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def compared(name):
    """Adapt a model and compare every stage with the oracle.

    Returns:
        How each stage is run, or why none is.
    """
    model, inputs = ALL[name]()
    before = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    try:
        adapted = ic.adapt(model, inputs)
    except ic.InputError as problem:
        assert "\n" not in str(problem)
        return f"refused: {problem}"
    original = adapted.model
    full = full_route(adapted.stages)
    for number, stage in enumerate(adapted.stages):
        paths = paths_of(len(stage.blocks))
        routes = [(*full[:number], path, *full[number + 1 :]) for path in paths]
        with ic.paths.untouched(original):
            outcomes = {route: outcome.output for route, outcome in evaluate(adapted, [full, *routes], inputs)}
        with without_fast_path():
            calls = patched.recorded(original, stage.blocks, inputs)
            truths = [patched.patched(original, stage.blocks, path, inputs, calls) for path in (full[number], *paths)]
        for route, truth in zip([full, *routes], truths, strict=True):
            truth, found = adapted.output_of(truth, inputs), outcomes[route]
            assert truth.shape == found.shape and torch.equal(truth.nan_to_num(), found.nan_to_num()), (
                f"{name}, {stage}, {route[number]}: differs by {(truth - found).abs().max():.3g}"
            )
    after = model.state_dict()
    assert all(torch.equal(after[key], value) or value.isnan().any() for key, value in before.items())
    lines = [str(stage) for stage in adapted.stages]
    return "\n".join([*lines, *(f"left out: {name}: {why}" for name, why in adapted.refused.items())])


SAMPLE = [
    "timm/crossvit_9_240",
    "timm/dla34",
    "timm/halonet26t",
    "timm/sequencer2d_s",
    "timm/swin_tiny_patch4_window7_224",
    "torchvision/lraspp_mobilenet_v3_large",
    "torchvision/resnet18",
    "transformers/bart",
    "transformers/clip",
    "transformers/detr",
    "transformers/funnel",
    "transformers/gemma3n_text",
    "transformers/gptj",
    "transformers/mixtral",
    "transformers/recurrent_gemma",
    "transformers/segformer",
    "transformers/switch_transformers",
    "transformers/t5",
    "transformers/vit_mae",
    "transformers/whisper",
    "transformers/xlnet",
]
"""Encoder-decoders, two towers, parallel branches, bypasses, whole stages in a row, convolutions in a row, masks drawn
at random, states that modules keep, experts, several tensors handed on, and what is ordinary."""


SLOW_SAMPLE = ["timm/hrnet_w18_small", "timm/coat_tiny", "timm/cspresnet50", "timm/gcvit_xxtiny", "torchvision/r3d_18"]
"""More of the same, which takes longer."""

REFUSED = ("timm/halonet26t", "transformers/gemma3n_text")


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("own/")])
def test_own_models(name):
    compared(name)


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("name", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.extended) for name in SLOW_SAMPLE)])
def test_a_sample_of_all_kinds_of_trouble(name):
    assert compared(name).startswith("refused: ") == (name in REFUSED), "a refused model is compared with nothing"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in [*SAMPLE, *SLOW_SAMPLE] and not name.startswith("own/")]
)
def test_every_family_of_the_libraries(name):
    compared(name)


TWO_CONVOLUTIONS = ["timm/halonet26t", "timm/selecsls42", "timm/inception_v3", "timm/ese_vovnet19b_slim_dw"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TWO_CONVOLUTIONS)
def test_convolutions_in_a_row_are_no_stage(name):
    model, inputs = ALL[name]()
    with pytest.raises(ic.InputError, match="no run of two or more residual blocks"):
        ic.adapt(model, inputs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, blocks", [("timm/sequencer2d_s", {8, 3}), ("timm/volo_d1_224", {4, 8, 2})])
def test_stages_in_a_row_are_no_blocks(name, blocks):
    model, inputs = ALL[name]()
    assert blocks <= {len(stage.blocks) for stage in ic.adapt(model, inputs).stages}


def by_hand(curves):
    """Errors of (early read-outs, drop-outs, extra evaluations) of one stage as indices, chance 6/7."""
    early, dropped, extra = (torch.tensor(curve).double() for curve in curves)
    chance = 1 - 1 / 7
    return {
        "convergence": (chance - early[:-1].mean()) / (chance - early[-1]),
        "recurrence": 1 - (dropped[:-1] - dropped[-1]).mean() / (chance - dropped[-1]),
        "divergence": (extra[1:] - extra[0]).mean() / (chance - extra[0]),
    }


class Res(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, z):
        return z + self.b(torch.tanh(self.a(z)))


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 7)
        self.blocks = nn.Sequential(*(Res() for _ in range(3)))

    def forward(self, x, path=(0, 1, 2)):
        z = self.stem(x)
        for block in path:
            z = self.blocks[block](z)
        return self.head(z)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Tower(), Tower()

    def forward(self, x, path=(0, 1, 2)):
        if path == (0, 1, 2):
            return 3 * self.a.head(self.a.blocks(self.a.stem(x))) + self.b.head(self.b.blocks(self.b.stem(x)))
        return 3 * self.a(x, path) + self.b(x)


class Coupled(nn.Module):
    """A reversible block: two streams."""

    def __init__(self):
        super().__init__()
        self.f, self.g = (nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))

    def forward(self, a, b):
        a = a + self.f(b)
        return a, b + self.g(a)


class Reversible(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Coupled() for _ in range(4)), nn.Linear(16, 7)

    def forward(self, x, path=(0, 1, 2, 3)):
        a = b = x
        for block in path:
            a, b = self.blocks[block](a, b)
        return self.head(b)


@pytest.mark.parametrize("kind, inputs, number", [(Two, 8, 3), (Reversible, 16, 4)])
def test_two_towers_and_two_streams_have_the_indices_that_are_computed_by_hand(kind, inputs, number):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(64, inputs)
    full = tuple(range(number))
    families = (
        [full[:end] for end in range(1, number + 1)],
        [(*full[:block], *full[block + 1 :]) for block in full],
        [full + (number - 1,) * more for more in range(17)],
    )
    with torch.no_grad():
        intact = model(x).argmax(1)
        curves = [[(model(x, path).argmax(1) != intact).double().mean() for path in paths] for paths in families]
    assert max(curves[1]) > 0.1, "blocks that do nothing would show nothing"
    report = ic.measure(model, [(x[:32], None), (x[32:], None)], against="predictions", resamples=0)
    found = report.indices[report.indices.stage == 0].set_index("index")["value"]
    for name, value in by_hand(curves).items():
        assert found[name] == pytest.approx(float(value), abs=1e-12)
    dropped = report.curves.query("stage == 0 and perturbation == 'drop-out' and metric == 'error'")
    assert dropped.value.tolist() == pytest.approx([float(error) for error in curves[1]], abs=1e-12)
    assert "whole model" in report.options["stages"][0]
    plan = ic.plan(model, [(x[:32], None), (x[32:], None)], budget=0, against="predictions", resamples=0)
    assert plan.frontier.search_error.max() > 0.1, "tower a has three quarters of the say"


def test_two_evaluations_at_a_time_know_nothing_of_each_other():
    model, _ = OWN["keyword_only"]()
    batches = [torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    model, inputs = OWN["arguments_from_an_earlier_stage"]()
    batches = [inputs, inputs.flip(0) * 2]
    adapted = ic.adapt(model, inputs)
    full = full_route(adapted.stages)
    routes = [full, *((*full[:-1], path) for path in paths_of(len(full[-1])))]
    with ic.paths.untouched(model):
        alone = [list(evaluate(adapted, routes, batch)) for batch in batches]
        together = zip(*(evaluate(adapted, routes, batch) for batch in batches), strict=True)
        for one, other, *found in zip(*alone, *zip(*together, strict=True), strict=True):
            assert torch.equal(one[1].output, found[0][1].output) and torch.equal(other[1].output, found[1][1].output)


def test_hooks_of_the_user_fire_once_for_each_application():
    model, inputs = OWN["two_towers"]()
    fired = []
    for block in model.a.blocks:
        block.register_forward_hook(lambda *_: fired.append(1))
    adapted = ic.adapt(model, inputs)
    fired.clear()
    with ic.paths.untouched(model):
        recording = adapted.bind(inputs)
        # In the recorded pass, in the one that looks at sharing again, and in the two that look at the
        # trunk of the path without the middle block.
        assert len(fired) == 3 + 3 + 2 + 1
        recording.whole(((0, 2, 2, 2), (0, 1, 2)))
    assert len(fired) == 9 + 4


LEFT_AS_IT_WAS = """
import random, sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
import iterconv as ic
from own_models import OWN
for name in ("noise_torch", "noise_numpy", "noise_random", "counter", "keeps_its_state"):
    model, inputs = OWN[name]()
    plain = {key: repr(value) for key, value in vars(model.blocks[0]).items() if not key.startswith("_")}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    ic.measure(model, [inputs], against="predictions", resamples=0)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after, name
    assert plain == {key: repr(value) for key, value in vars(model.blocks[0]).items() if not key.startswith("_")}, name
"""


def test_random_states_and_plain_attributes_stay():
    # In a process of its own: the tests' type checker draws random numbers.
    done = subprocess.run(
        [sys.executable, "-c", LEFT_AS_IT_WAS, str(Path(patched.__file__).parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_models_print_how_their_stages_are_run():
    model, inputs = OWN["two_towers"]()
    shown = re.sub(r"share [01]\.\d\d", "share S", str(ic.adapt(model, inputs)))
    assert shown.splitlines() == [
        "TwoTowers, 2 stage(s):",
        "  a.blocks: 3 x Res, (6, 16), identity share S, whole model, as more than the one tensor that is handed on "
        "depends on its blocks",
        "  b.blocks: 3 x Res, (6, 16), identity share S, shared",
    ]


if __name__ == "__main__":
    import time
    import traceback

    torch.set_num_threads(1)
    for name in ALL:
        if any(name.startswith(word) for word in sys.argv[1:]):
            start = time.time()
            try:
                told = compared(name)
            except BaseException as problem:  # noqa: BLE001
                told = f"FAILED {type(problem).__name__}: {str(problem)[:300]}"
                if "-v" in sys.argv:
                    traceback.print_exc()
            print(f"{name} ({time.time() - start:.1f} s)\n  " + told.replace("\n", "\n  "), flush=True)
