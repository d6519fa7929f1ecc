"""Every path of every model of others: equal to a patched pass of the model itself bit by bit, or refused in a line."""

import contextlib

import pytest
import torch

import iterconv as ic
import patched
from foreign_models import MODELS
from iterconv.paths import evaluate, full_route
from own_models import OWN

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
        routes = [(*full[:number], path, *full[number + 1 :]) for path in paths_of(len(stage.blocks))]
        with ic.stages.untouched(original):
            outcomes = {route: outcome.output for route, outcome in evaluate(adapted, [full, *routes], inputs)}
        for route in [full, *routes]:
            with without_fast_path():
                truth = patched.patched(original, stage.blocks, route[number], inputs)
            truth, found = adapted.output_of(truth, inputs), outcomes[route]
            assert truth.shape == found.shape and torch.equal(truth.nan_to_num(), found.nan_to_num()), (
                f"{name}, {stage}, {route[number]}: differs by {(truth - found).abs().max():.3g}"
            )
    after = model.state_dict()
    assert all(torch.equal(after[key], value) or value.isnan().any() for key, value in before.items())
    lines = [str(stage) for stage in adapted.stages]
    return "\n".join([*lines, *(f"left out: {name}: {why}" for name, why in adapted.refused.items())])


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("own/")])
def test_own_models(name):
    compared(name)


if __name__ == "__main__":
    import sys
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
