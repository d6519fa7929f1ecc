"""Wrong types and values in the public functions: one line that names the value, before anything is done."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv import errors as memory
from iterconv.errors import check_choice, check_count, check_number, check_range, line_of
from iterconv.spectral.iteration import cast

pytestmark = pytest.mark.medium


class Res(nn.Module):
    """A block with a second output, as blocks with auxiliary losses have."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, z):
        return z + self.b(torch.tanh(self.a(z))), z.mean()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Res() for _ in range(2)), nn.Linear(6, 3)

    def forward(self, x, shift=None):
        for block in self.blocks:
            x, _ = block(x)
        return self.head(x)


torch.manual_seed(0)
X = torch.randn(5, 6)
BATCHES = [(X, torch.arange(5) % 3), (X + 1, torch.arange(5) % 3)]


def net():
    torch.manual_seed(0)
    return Net().eval()


def layer():
    return ic.models.LocallyConnected2d(1, 1, 1, (2, 2))


def generate(n, **options):
    from iterconv.data.digitclutter import generate

    generate(n, **options)


WRONG = [
    ("ic.measure(net(), BATCHES, seed=-1)", "seed=-1 is too small; use 0 or more"),
    ("ic.measure(net(), BATCHES, seed=None)", "seed=None is not a whole number"),
    ('ic.measure(net(), BATCHES, chance="half")', "chance='half' is not a number"),
    ("ic.measure(net(), BATCHES, min_margin=None)", "min_margin=None is not a number"),
    ("ic.measure(net(), BATCHES, confidence=torch.ones(99))", r"confidence=tensor\(.* is not a number"),
    ("ic.measure(net(), BATCHES, resamples=10**20)", "resamples=100000000000000000000 is too large"),
    ("ic.measure(net(), BATCHES, resamples=10**15)", "resamples=10.* would take .* GiB"),
    ("ic.measure(net(), BATCHES, extra_evaluations=10**9)", "the paths of extra_.* would take .* use fewer"),
    ('ic.measure(net(), BATCHES, against=["labels"])', r"against=\['labels'\] is unknown"),
    ("ic.measure(net(), BATCHES, families=5)", "families=5 is unknown"),
    ('ic.plan(net(), BATCHES, against="x")', "against='x' is unknown; use 'labels' or 'predictions'"),
    ('ic.plan(net(), BATCHES, confidence="a")', "confidence='a' is not a number"),
    ("ic.plan(net(), BATCHES, seed=-1)", "seed=-1"),
    ("ic.plan(net(), BATCHES, resamples=-1)", "resamples=-1"),
    ('ic.plan(net(), BATCHES, budget=float("inf"))', r"budget=inf is not in \[0, 1\]"),
    ("ic.plan(net(), BATCHES, resamples=0).route([1, 2])", r"blocks=\[1, 2\] is not a whole number"),
    ('ic.similarity(net(), [X * float("nan")])', "NaN"),
    ('ic.audit(net(), (X * float("nan"),))', "batch 0 has NaN"),
    ('ic.audit(net(), X, iterations="3")', "iterations='3' is not a whole number"),
    ('ic.constrain(net(), X, lipschitz=float("inf"))', r"lipschitz=inf is not in \(0, inf\)"),
    ('ic.constrain(net(), X * float("nan"))', "batch 0 has NaN"),
    ('ic.data.load("x" * 10_000)', "there is no data set 'x+'"),
    ("ic.data.load(5)", "the data set 5 is not a name"),
    ('ic.data.load("digits", validation="a")', "validation='a' is not a number"),
    ('ic.data.load("digits", samples="many")', "samples='many' is not a whole number"),
    ('ic.data.load("digits", split_seed=-1)', "split_seed=-1"),
    ('ic.data.load("digits", device=[])', "is not there; use 'cpu'"),
    ('(d := ic.data.load("digits")).batches(d.test, "8")', "batch_size='8' is not a whole number"),
    ("ic.models.resnet(width=10**12)", "width=10.* would take .* GiB of memory"),
    ("ic.models.resnet(stages=10**9)", "stages=1000000000, .* would take .* GiB of memory"),
    ("ic.models.resnet(residual=None)", "residual=None is unknown"),
    ("ic.models.LocallyConnected2d(10**6, 10**6, 1, (9, 9))", "9 x 9 positions would take .* GiB"),
    ('ic.models.LocallyConnected2d(1, 1, 1, (2, "2"))', r"image_size\[1\]='2' is not a whole number"),
    ("generate(10**30)", "n=10.* is too large"),
    ("generate(10**12)", "n=1000000000000 images would take .* GiB of memory"),
    ('generate(5, digits="3")', "digits='3' is not a whole number"),
    ('generate(5, debris=["light"])', "debris=.* is unknown"),
]
NUMPY = """
found = ic.plan(net(), BATCHES, budget=np.int64(1), beam=np.int32(2), resamples=np.int64(5), seed=np.int64(3))
assert found.frontier["blocks"].tolist() == [2, 1]
report = ic.measure(net(), BATCHES, seed=np.int64(3), resamples=np.int16(5), chance=np.float32(0.5))
report.save(sys.argv[1])  # as JSON, which has no numbers of NumPy
assert {type(value) for value in report.options.values()} == {int, float, str, list}
"""
PLAIN = """
import json, sys
sys.path.insert(0, sys.argv[2])
from test_errors import *
for code, _ in WRONG:
    try:
        print(json.dumps(["returned", repr(eval(code))]))
    except Exception as problem:
        print(json.dumps([type(problem).__name__, str(problem)]))
exec(NUMPY)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What every wrong call comes to in a process of its own, where annotations are not enforced as in the tests."""
    target = tmp_path_factory.mktemp("plain") / "report.json"
    command = [sys.executable, "-c", PLAIN, str(target), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], target.is_file()


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[code for code, _ in WRONG])
def test_wrong_options_are_told_in_a_line(answers, number):
    kind, message = answers[0][number]
    assert kind in ("InputError", "OptionError"), message
    assert re.search(WRONG[number][1], message) and "\n" not in message and len(message) < 300, message


def test_numbers_of_numpy_are_numbers(answers):
    assert answers[1], "the report was measured, checked and written in that process"


@pytest.mark.parametrize(
    "batches, says",
    [
        ([(X, torch.zeros(5, 3))], "row 0 of the targets has no label; leave out"),
        (
            [BATCHES[0], (X, torch.eye(3)[torch.arange(5) % 3])],
            r"batch 1 has targets of 2 dimension\(s\), batch 0 of 1",
        ),
        ([(X, torch.tensor(1))], "batch 0 is empty or a single number"),
        ([(X, X.bool())], r"must be 0/1 rows of 3 outputs each; .* passed as \(\(a, b\), None\)"),
    ],
)
def test_labels_that_can_not_be_measured_are_told(batches, says):
    for measured in (ic.measure, lambda model, given: ic.plan(model, [batch for batch in given for _ in range(2)])):
        with pytest.raises(ic.InputError, match=says):
            measured(net(), batches)


@pytest.mark.parametrize(
    "head, says",
    [
        (lambda z: z.sum(), r"output is \(\); measuring needs a tensor of shape \(n, classes\), so pass task="),
        (lambda z: z[:, None].repeat(1, 2, 1), r"output is \(5, 2, 6\); .*=lambda output, inputs: output.mean\(1\)\)"),
    ],
)
def test_outputs_that_are_no_rows_are_told_with_the_remedy(head, says):
    class Odd(nn.Module):
        def forward(self, z):
            return head(z)

    staged = ic.StagedModel(nn.Identity(), [ic.Stage([nn.Linear(6, 6), nn.Linear(6, 6)])], [], Odd())
    with pytest.raises(ic.InputError, match=says):
        ic.measure(staged, [X], against="predictions")
    with pytest.raises(ic.InputError, match="batch 0 is empty"):
        ic.measure(staged, [X[:0]], against="predictions")


def test_two_arguments_are_passed_with_none_for_targets():
    class Two(Net):
        def forward(self, x, shift):
            return super().forward(x + shift)

    torch.manual_seed(0)
    model = Two().eval()
    with pytest.raises(ic.InputError, match=r"rejects the batch .*pass \(\(a, b\), None\) for inputs of two arguments"):
        ic.measure(model, [(X, X)], against="predictions")
    report = ic.measure(model, [((X, X), None)], against="predictions", resamples=0)
    assert report.options["examples"] == 5


def test_a_given_chance_counts_for_outputs_that_are_not_finite():
    class Exploding(nn.Module):
        def forward(self, z):
            return z * 1e30

    torch.manual_seed(0)
    staged = ic.StagedModel(nn.Identity(), [ic.Stage([nn.Identity(), Exploding()])], [], nn.Linear(6, 3))
    with torch.no_grad():
        staged.head.bias.zero_()
    curves = ic.measure(staged, [(X, staged(X).argmax(1))], chance=0.5, resamples=0).curves
    repeated = curves[(curves["perturbation"] == "extra evaluation") & (curves["position"] > 0)]
    for metric in ("error", "disagreement"):
        assert set(repeated[repeated["metric"] == metric]["value"]) == {0.5}


def test_schedulers_are_not_optimizers():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(ic.InputError, match="StepLR is not a torch optimizer"):
        ic.couple(scheduler, [list(model.blocks)], 0.5)
    ic.couple(optimizer, [list(model.blocks)], 0.5).remove()  # nothing was left on it


def test_a_second_output_of_a_block_does_not_hide_its_branch():
    model = net()
    found = ic.audit(model, X)
    assert (found["not_covered"] == "").all() and (found["measured"] <= found["bound"]).all()
    jacobian = torch.autograd.functional.jacobian(lambda z: model.blocks[0](z)[0] - z, X[0])
    assert float(found["measured"][0]) >= float(torch.linalg.matrix_norm(jacobian, 2)) * 0.99
    ic.constrain(model, X, lipschitz=0.1)
    assert (ic.audit(model, X)["constrained"] <= 0.1001).all()


def test_weights_with_nan_are_told_as_such():
    from iterconv.lipschitz.branches import find_branch

    block = Res().eval()
    nn.init.constant_(block.b.bias, float("nan"))
    with pytest.raises(ic.InputError, match="Res makes NaN of this batch; look for NaN in the batch and the weights"):
        find_branch(block, X)


def test_a_constant_is_measured_without_forward_derivatives():
    class Backward(torch.autograd.Function):
        """Twice its input, with a backward derivative only, as grouped matrix products have."""

        @staticmethod
        def forward(x):
            return 2 * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

        @staticmethod
        def jvp(ctx, *tangents):
            raise NotImplementedError("Trying to use forward AD with something that does not support it")

    from iterconv.lipschitz.audit import largest_local_constant

    weight = torch.randn(6, 6)
    found = largest_local_constant(lambda z: Backward.apply(z) @ weight, X, 50)
    assert found == pytest.approx(2 * float(torch.linalg.matrix_norm(weight, 2)), rel=1e-3)


def test_checks_give_back_plain_numbers():
    assert type(check_number("n", np.float32(0.5))) is float and type(check_count("n", np.int64(2))) is int
    assert check_range("n", 0, "[0, 1)", "") == 0
    for value, allowed in ((1, "[0, 1)"), (0, "(0, 1]"), (float("nan"), "[0, inf)"), (float("inf"), "(0, inf)")):
        with pytest.raises(ic.InputError, match="is not in"):
            check_range("n", value, allowed, "use another")
    with pytest.raises(ic.InputError, match="word='c' is unknown; use 'a' or 'b'"):
        check_choice("word", "c", ("a", "b"))


def test_free_memory_is_what_the_system_tells_and_a_quarter_of_it_is_the_bound(monkeypatch):
    assert 2**20 < memory.free_memory() < 2**60
    monkeypatch.setattr(memory, "free_memory", lambda: 400.0 * 2**30)
    memory.check_memory(100 * 2**30, "what just fits", "do nothing")
    with pytest.raises(
        ic.InputError, match="this would take 101 GiB of memory, more than .* 400 GiB .* free; use less"
    ):
        memory.check_memory(101 * 2**30, "this", "use less")


def test_doubles_are_made_on_the_cpu_where_a_device_has_none():
    class OnApple(torch.Tensor):
        device = torch.device("mps")

        def cpu(self):
            return X

    apple = X.as_subclass(OnApple)
    assert cast(apple, torch.float64) is not None and cast(apple, torch.float64).equal(X.double())
    assert cast(X, torch.float64).dtype == torch.float64


def test_long_messages_of_others_are_cut_off_between_words():
    said = ValueError("please check your connection\n  and try again")
    assert line_of(said) == "please check your connection and try again"
    assert line_of(said, 38) == "please check your connection and ..." and len(line_of(said, 20)) <= 20
    assert len(line_of(ValueError("x" * 300))) == 160
    assert line_of(ValueError()) == "ValueError"
