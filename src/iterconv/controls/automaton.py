"""A cellular automaton that others trained: at half the step size it comes to rest, at the whole one it does not."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iterconv import data
from iterconv.controls.control import Check, Control, UnavailableError, check_range_of
from iterconv.measuring import measure
from iterconv.models.cellular_automaton import load_cellular_automaton
from iterconv.paths.contract import StagedModel
from iterconv.settling import depth, settle

WEIGHTS = "mnist-ca.safetensors"
IMAGES, BLOCKS, STEPS = 100, 10, 400


def examine_settling() -> list[Check]:
    """Check that at step size 0.5 the states come to rest, and that two images in a hundred are wrong.

    Returns:
        The checks.
    """
    model, batches = _open(0.5)
    settling = settle(model, batches, steps=STEPS - BLOCKS, growth=False)
    return [
        check_range_of("error at the last step", settling.steps.error.iloc[-1], 0.01, 0.03),
        check_range_of("relative step at the end", settling.steps.residual.iloc[-1], 0, 0.0005),
        check_range_of("share that settles", settling.shares()["settles"], 0.7, 1),
        check_range_of("divergence", _divergence(model, batches), -0.05, 0.05),
        check_range_of("depth, best error", depth(model, batches).curve.error.min(), 0, 0.05),
    ]


def examine_overshooting() -> list[Check]:
    """Check that at step size 1 the states do not come to rest, and that most images become wrong.

    Returns:
        The checks.
    """
    model, batches = _open(1.0)
    settling = settle(model, batches, steps=STEPS - BLOCKS, growth=False)
    return [
        check_range_of("error at the last step", settling.steps.error.iloc[-1], 0.4, 1),
        check_range_of("relative step at the end", settling.steps.residual.iloc[-1], 0.5, math.inf),
        check_range_of("share that settles", settling.shares()["settles"], 0, 0.1),
        check_range_of("divergence", _divergence(model, batches), 0.1, math.inf),
        check_range_of("depth, worse from", depth(model, batches).overthinking or math.nan, 2, BLOCKS + 16),
    ]


def _open(fire: float) -> tuple[StagedModel, list[Any]]:
    """Open the automaton and the first images of MNIST's test split, if both are at hand."""
    root = os.environ.get("ITERCONV_DATA")
    if not root:
        raise UnavailableError(f"ITERCONV_DATA is not set; its folder pretrained should hold {WEIGHTS}")
    weights = Path(root) / "pretrained" / WEIGHTS
    for needed in (weights, Path(root) / "mnist"):
        if not needed.exists():
            raise UnavailableError(f"{needed} is not there")
    test = data.load("mnist").test[:IMAGES]
    # The automaton looks at grey levels themselves, which are not standardised.
    return load_cellular_automaton(weights, BLOCKS, fire), [(test.images.float() / 255, test.targets)]


def _divergence(model: StagedModel, batches: list[Any]) -> float:
    indices = measure(model, batches, resamples=0).indices
    return float(indices[(indices["stage"] == 0) & (indices["index"] == "divergence")]["value"].iloc[0])


def _control(name: str, examine: Any, statement: str) -> Control:
    return Control(name=name, statement=statement, examine=examine, cost=60)


CONTROLS: Sequence[Control] = (
    _control("automaton", examine_settling, "A cellular automaton comes to rest at step size 0.5."),
    _control(
        "automaton, whole steps", examine_overshooting, "The same automaton does not come to rest at step size 1."
    ),
)
