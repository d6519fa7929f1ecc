import dataclasses
import json
import subprocess
import sys

import pytest

from iterconv import InputError
from iterconv.data.known import KNOWN
from iterconv.training.config import RunConfig


def test_recipes_are_the_papers():
    cifar10, cifar100, mnist = (KNOWN[name].recipe for name in ("cifar10", "cifar100", "mnist"))
    assert (cifar10.stages, cifar10.epochs, cifar10.lr, cifar10.lr_divisor) == (3, 400, 0.1, 10)
    assert (cifar100.stages, cifar100.epochs, cifar100.lr, cifar100.lr_divisor) == (3, 200, 0.1, 10)
    assert (mnist.stages, mnist.epochs, mnist.lr, mnist.lr_divisor) == (1, 400, 0.025, 2.5)
    assert cifar10.augment and cifar100.augment and not mnist.augment


@pytest.mark.parametrize("data, epochs", [("cifar10", (200, 300)), ("cifar100", (100, 150)), ("mnist", (200, 300))])
def test_learning_rate_is_divided_where_the_paper_says(data, epochs):
    run = RunConfig(data=data).resolved()
    divided = [e for e in range(1, run.epochs) if run.learning_rate(e) != run.learning_rate(e - 1)]
    assert divided == list(epochs)
    assert run.learning_rate(run.epochs - 1) == pytest.approx(run.lr / run.lr_divisor**2)


def test_coupled_runs_start_recurrent_and_others_not_unless_told():
    assert RunConfig(coupling=0.5).resolved().init == "recurrent"
    assert RunConfig().resolved().init == "independent"
    assert RunConfig(init="recurrent").resolved().init == "recurrent"


def test_identity_is_the_resolved_run():
    assert str(RunConfig(coupling=1).to_dict()) == str(RunConfig(coupling=1.0).to_dict()), "equal runs, equal names"
    assert RunConfig(epochs=30).hash == RunConfig().hash == RunConfig(lr=0.1, init="independent").hash
    others = [{"seed": 1}, {"width": 8}, {"coupling": 0.5}, {"kernel": "triangular"}, {"samples": 100}, {"lr": 0.2}]
    assert len({RunConfig(**other).hash for other in [{}, *others]}) == len(others) + 1
    assert RunConfig(seed=3).name.endswith(RunConfig(seed=3).hash)


def test_one_thread_is_what_runs_always_had_and_more_are_another_run():
    assert RunConfig(threads=1).hash == RunConfig().hash == "6db5b6ab" and "threads" not in RunConfig().to_dict()
    two = RunConfig(threads=2)
    assert two.hash != RunConfig().hash and two.to_dict()["threads"] == 2
    assert RunConfig.from_dict(two.to_dict()) == two.resolved()


def test_round_trip_and_unknown_fields():
    run = RunConfig(coupling=0.9, width=8)
    assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))).hash == run.hash
    with pytest.raises(InputError, match="'widht' is not a field"):
        RunConfig.from_dict({"widht": 8})


@pytest.mark.parametrize(
    "field, value",
    [
        ("width", 0),
        ("blocks", 0),
        ("stages", 0),
        ("epochs", 0),
        ("batch_size", 1),
        ("samples", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 10**30),
        ("width", 99999999999999999999),
        ("blocks", 10**8),
        ("stages", 64),
        ("epochs", 10**9),
        ("samples", 10**30),
        ("threads", 0),
        ("threads", 10**6),
        ("norm_scale", 1e300),
        ("weight_decay", 1e300),
        ("lr", 1e300),
        ("lr_divisor", 1e-300),
        ("lr_divisor", 1e-20),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr_divisor", -1.0),
        ("lipschitz", 0.0),
        ("norm_scale", float("inf")),
        ("coupling", 1.5),
        ("coupling", -0.1),
        ("coupling", float("nan")),
        ("momentum", 1.1),
        ("weight_decay", -1e-4),
        ("weight_decay", float("nan")),
        ("residual", "other"),
        ("init", "other"),
        ("kernel", "other"),
        ("selection", "train"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"{field}=") as error:
        RunConfig.from_dict({field: value})
    assert "\n" not in str(error.value)


def test_every_number_of_a_run_has_an_interval():
    for field in dataclasses.fields(RunConfig):
        assert field.type not in (int, float, int | None, float | None), f"{field.name} may have any value"


def test_whole_numbers_are_fine_where_floats_are_meant():
    run = RunConfig(coupling=1, lr=1, momentum=0)
    assert [type(value) for value in (run.coupling, run.lr, run.momentum)] == [float] * 3
    assert run == RunConfig(coupling=1.0, lr=1.0, momentum=0.0)


def test_late_coupling_needs_two_blocks():
    with pytest.raises(InputError, match="first_coupled=4"):
        RunConfig(blocks=5, first_coupled=4, coupling=0.5)
    RunConfig(blocks=5, first_coupled=4)


def test_every_field_has_a_sentence():
    import ast
    import inspect

    body = ast.parse(inspect.getsource(RunConfig)).body[0].body
    documented = [
        first.target.id
        for first, second in zip(body, body[1:], strict=False)
        if isinstance(first, ast.AnnAssign) and isinstance(second, ast.Expr)
    ]
    assert documented == [field.name for field in dataclasses.fields(RunConfig)]


ELSEWHERE = """
from iterconv.errors import InputError
from iterconv.training.config import RunConfig
kind, whole = "is of the wrong kind; see iterconv train --help", "is not a whole number"
for field, value, problem in (
    ("width", None, whole), ("width", True, whole), ("width", 8.5, whole), ("width", "8", whole),
    ("epochs", 2.0, whole),
    ("lr", [1], "is not a number"), ("coupling", False, "is not a number"),
    ("data", 5, kind), ("data", None, kind), ("augment", "yes", kind), ("augment", 1, kind),
    ("residual", None, "is unknown; use 'ordinary', 'improper' or 'proper'"),
    ("init", [1], "is unknown; use 'recurrent' or 'independent'"),
):
    try:
        RunConfig.from_dict({field: value})
    except InputError as raised:
        assert str(raised) == f"{field}={value!r} {problem}", raised
    else:
        raise AssertionError(field)
RunConfig.from_dict({"lr": 1, "coupling": 1, "epochs": None, "init": "recurrent", "augment": True})
print(RunConfig(width=8).hash)
"""


@pytest.mark.medium
def test_values_of_the_wrong_kind_as_in_a_damaged_file_are_refused_and_identity_is_that_of_another_process():
    """In a process of its own, where no type checker comes first."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == RunConfig(width=8).hash
