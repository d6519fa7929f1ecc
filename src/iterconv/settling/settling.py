"""``settle``: apply a block, or a span of blocks, again and again, and see whether the state comes to rest."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iterconv.adapters.staged import as_staged
from iterconv.errors import InputError, OptionError, check_choice, check_count, check_range
from iterconv.measuring.compare import Batch, Judge, read_batches
from iterconv.options import Against
from iterconv.paths import untouched
from iterconv.paths.iterate import Iteration
from iterconv.settling.growth import Growth, spans_systems
from iterconv.settling.settled import Settling
from iterconv.settling.trajectory import TOLERANCE, Trajectory
from iterconv.tasks import Task
from iterconv.tasks.base import without_padding

ITERATIONS = 10
"""The steps of the power iteration at each read-out, besides those that led there."""

LEAST_STEPS = 4
"""Fewer steps have no quarters that can be compared."""

_Columns = dict[str, NDArray[np.float64]]
"""Values of shape (read-outs, rows) by the name of the column."""


def settle(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    stage: int = 0,
    span: tuple[int, int] | None = None,
    steps: int = 200,
    damping: float = 1.0,
    growth: bool = True,
    against: Against = "labels",
    task: Task | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int | None], None] | None = None,
) -> Settling:
    """Apply a block again and again, far beyond the trained depth, and tell what the state and the prediction do.

    Step 0 is the ordinary pass, and step k applies the block k more times; ``extra_evaluations`` of
    ``iterconv.measure`` are the same paths. After the block, the representation goes through the rest of the stage, the
    later stages and the head. The model is evaluated in evaluation mode and left exactly as it was. Memory does not
    depend on the number of steps.

    Three things are told apart. A state *settles* if it comes to rest within the run. It *converges* if its steps
    shrink fast enough to come to rest at last. An example *stays right* if its prediction is right at every read-out.

    Args:
        model: A model as for ``iterconv.measure``.
        batches: Batches as for ``iterconv.measure``; with ``against="predictions"`` they may be inputs alone.
        stage: The number of the stage, from 0.
        span: The blocks that are applied, as (start, end): contiguous, numbered from 0, ``end`` itself not among them.
            By default the stage's last block, as in the Divergence Index.
        steps: The number of applications beyond the ordinary pass, at least 4.
        damping: The part a of each further step that is taken, z + a (B(z) - z), above 0; 1 for the block as it is. A
            small part can make a state settle that overshoots; where a fixed point is stays the same.
        growth: True to measure growth rates, which takes several times as long as the run itself.
        against: The reference of ``error``, ``cross_entropy`` and ``right``: the ``"labels"``, or the unperturbed
            model's own ``"predictions"``.
        task: The meaning of outputs and targets, as for ``iterconv.measure``.
        tolerance: The length of a step, relative to the largest norm of the state so far, below which a state is at
            rest, in (0, 1).
        progress: A function that is called after each batch with the number of rows so far and None.

    Returns:
        The steps, the examples, and the options that led to them.

    Raises:
        InputError: If an argument is out of range, if the blocks can't be differentiated in forward mode (then pass
            ``growth=False``), or as for ``iterconv.measure``.
    """
    check_settling(stage, span, steps, tolerance, damping)
    check_choice("against", against, Against)
    staged, batches = as_staged(model, batches, task)
    start, end = find_span(staged.stages, stage, span)
    read_outs = choose_read_outs(steps)
    columns, examples, growths, rows = [], [], [], 0
    with untouched(staged):
        for batch in read_batches(staged, batches, task, against):
            judge = Judge(staged, batch, against)
            with untouched(staged):  # each batch meets the model in the state in which it was given
                iteration = Iteration(staged, batch.inputs, stage, (start, end), damping)
                followed = _Followed(iteration, batch, judge, read_outs, growth, tolerance)
                examples.append(followed.run(read_outs))
            columns.append(followed.columns)
            growths.append(followed.grew)
            rows += judge.size
            del iteration, followed  # their activations would stay beside those of the next batch
            if progress:
                progress(rows, None)
    if not rows:
        raise InputError("there are no batches to measure on; pass an iterable of (inputs, targets)")
    options = {"stage": stage, "span": [start, end], "blocks": len(staged.stages[stage].blocks), "steps": steps}
    options |= {"damping": float(damping), "growth": bool(growth and all(growths)), "against": against}
    options |= {"tolerance": tolerance, "examples": rows}
    return Settling(_make_steps(read_outs, columns), _make_examples(examples), options)


def check_settling(stage: Any, span: Any, steps: Any, tolerance: Any, damping: Any = 1) -> None:
    """Raise ``InputError`` for options that fit no model."""
    check_count("stage", stage, 0)
    check_count("steps", steps, LEAST_STEPS, why="is too few to see where the state goes")
    check_range("tolerance", tolerance, "(0, 1)", "the default is 0.001")
    check_range("damping", damping, "(0, inf)", "1 is the block as it is")
    if span is not None:
        if not isinstance(span, (tuple, list)) or len(span) != 2:
            raise OptionError("span", span, "is no span; use (start, end), from 0, without the end itself")
        start, end = (check_count("span", place, 0) for place in span)
        if start >= end:
            raise OptionError("span", span, "holds no block; use (start, end) with start < end")


def find_span(stages: Any, stage: int, span: tuple[int, int] | None) -> tuple[int, int]:
    """Return the span of blocks; raises ``InputError`` if the model lacks the stage or the blocks."""
    if stage >= len(stages):
        raise OptionError("stage", stage, f"is not there; stages are numbered from 0 to {len(stages) - 1}")
    count = len(stages[stage].blocks)
    if span is None:
        return count - 1, count
    if span[1] > count:
        raise OptionError("span", tuple(span), f"ends behind the {count} blocks of the stage; use an end up to {count}")
    return int(span[0]), int(span[1])


def choose_read_outs(steps: int) -> list[int]:
    """Choose the steps that are read out: 0, 1, 2, 3, 4, 6, 8, 11, 16, ..., a factor of about sqrt(2), and the last."""
    found, step = [0], 1.0
    while round(step) < steps:
        found.append(round(step))
        step *= 2**0.5
    return list(dict.fromkeys([*found, steps]))


class _Followed:
    """One batch, followed through all steps."""

    def __init__(
        self,
        iteration: Iteration,
        batch: Batch,
        judge: Judge,
        read_outs: list[int],
        growth: bool,
        tolerance: float,
    ) -> None:
        self._judge, self._places = judge, {step: place for place, step in enumerate(read_outs)}
        self._iteration = iteration
        intact = judge.begin(iteration.output)
        # One array, so that no small ones are allocated between activations.
        table = np.full((len(_MEASURED), len(read_outs), len(intact)), np.nan)
        self.columns: _Columns = dict(zip(_MEASURED, table, strict=True))
        before, first = judge.states(iteration.before), judge.states(iteration.first)
        seen = before is not None and first is not None and before.is_floating_point()
        self._trajectory = Trajectory(before, read_outs[-1], tolerance) if seen and before is not None else None
        possible = growth and iteration.shared and spans_systems(iteration.first)
        self.grew = possible and judge.spread(torch.zeros(len(iteration.first))) is not None
        keep = partial(without_padding, inputs=batch.named)
        self._growth = Growth(iteration.apply, iteration.first, ITERATIONS, keep) if self.grew else None
        self._z = iteration.first

    def run(self, read_outs: list[int]) -> dict[str, NDArray[Any]]:
        """Apply the blocks, fill the columns, and return those of the examples."""
        self._iteration.run(read_outs[-1], self._places, self._see, self._read)
        return self._judge_examples()

    def _see(self, step: int, z: Any) -> None:
        """Take in the state after a step."""
        if self._growth and step:
            self._growth.advance(self._z)
        self._z = z
        rows = self._judge.states(z) if self._trajectory else None
        if self._trajectory and rows is not None:
            self._trajectory.see(step, rows)
        if step not in self._places:
            return
        if self._trajectory:
            for name in ("finite", "residual", "angle"):
                self._put(name, step, getattr(self._trajectory, name)())
        if self._growth:
            self._put("growth", step, self._judge.spread(self._growth.local(z)))

    def _read(self, step: int, made: Any) -> None:
        """Take in the output of a step."""
        for name, compute in self._judge.metrics(self._judge.rows_of(made)).items():
            if name in self.columns:
                self._put(name, step, compute())

    def _put(self, name: str, step: int, values: Tensor | None) -> None:
        if values is not None:
            self.columns[name][self._places[step]] = values.cpu().double().numpy()

    def _judge_examples(self) -> dict[str, NDArray[Any]]:
        errors, disagreements = self.columns["error"], self.columns["disagreement"]
        count = errors.shape[1]
        found: dict[str, NDArray[Any]] = {
            "verdict": np.full(count, "undefined", dtype=object),
            "right": errors[-1] == 0,
            "right_before": errors[0] == 0,
            "stays_right": (errors == 0).all(0),
            "agrees": disagreements[-1] == 0,
            "converges": np.zeros(count, dtype=bool),
            "settling_step": np.full(count, -1),
            "period": np.zeros(count, dtype=int),
            "exponent": np.full(count, np.nan),
        }
        if self._trajectory:
            ends = (self._iteration.apply_to_stage_input(), self._iteration.stage_input)
            moved, entering = (self._judge.states(z) for z in ends)
            assert moved is not None and entering is not None, "all representations of a stage have one shape"
            found |= self._trajectory.judge(moved, entering)
        if self._growth and (spread := self._judge.spread(self._growth.exponent)) is not None:
            found["exponent"] = spread.cpu().double().numpy()
        return found


_MEASURED = ("error", "disagreement", "cross_entropy", "residual", "angle", "growth", "finite")


def _make_steps(read_outs: list[int], parts: list[_Columns]) -> pd.DataFrame:
    """Make the table of read-outs from the values of all rows of all batches."""
    whole = {name: np.concatenate([part[name] for part in parts], axis=1) for name in _MEASURED}
    finite = whole["finite"]
    table = {
        "step": read_outs,
        "error": whole["error"].mean(1),
        "agreement": 1 - whole["disagreement"].mean(1),
        "cross_entropy": _over_finite(np.mean, whole["cross_entropy"]),
    }
    for name in ("residual", "angle", "growth"):
        values = np.where(finite == 1, whole[name], np.nan)
        table[name] = _over_finite(np.median, values)
        if name == "residual":
            low, high = (_over_finite(lambda row, q=q: np.quantile(row, q), values) for q in (0.25, 0.75))
    table |= {"residual_low": low, "residual_high": high, "finite": finite.mean(1)}
    return pd.DataFrame(table | {"n": finite.shape[1]})


def _over_finite(function: Callable[..., Any], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a function to the finite values of each read-out; NaN where there are none."""
    finite = [row[np.isfinite(row)] for row in values]
    return np.array([float(function(row)) if len(row) else np.nan for row in finite])


def _make_examples(parts: list[dict[str, NDArray[Any]]]) -> pd.DataFrame:
    """Make the table of examples, numbered in the order of the batches."""
    table = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    table["settling_step"] = table["settling_step"].astype("Int64").mask(table["settling_step"] < 0)
    table["verdict"] = table["verdict"].astype(str)
    table.insert(0, "example", range(len(table)))
    return table
