"""``compare``: evaluate routes through a model on all batches, and compare each with the targets, row by row.

Both ``measure`` and ``plan`` are built on it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from iterconv.errors import InputError
from iterconv.measuring.faster import AS_GIVEN, Numbers, Way, widen
from iterconv.paths import Outcome, Route, evaluate, full_route, untouched
from iterconv.paths.contract import Bindable
from iterconv.tasks import Task, task_of
from iterconv.tasks.base import METRICS, distance
from iterconv.tasks.batches import check_inputs, check_targets, inputs_by_name, match_model, split_batch
from iterconv.tasks.classes import WHOLE

Key = tuple[Route, str, int]
"""(route, metric, stage); metrics of the output have stage -1, distances have their stage."""

Columns = dict[Key, NDArray[np.float64]]
"""One value for each row."""

OUTPUT = -1
"""The number that stands for a stage in the keys of metrics of the model's output."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The values of all rows of all batches."""

    columns: Columns
    chance: float
    """The error of guessing, in [0, 1]."""
    units: NDArray[np.int64] | None
    """The number of the unit with which each row is resampled, from 0; None if each row is a unit of its own."""

    def of(self, route: Route, metric: str, stage: int = OUTPUT) -> NDArray[np.float64]:
        """Return the values of one route, one for each row."""
        return self.columns[route, metric, stage]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch in the forms that the model and the task take."""

    number: int
    inputs: Any
    named: Any
    """The inputs, keyed by the names of the model's arguments if a task needs them."""
    targets: Tensor | None
    task: Task


def compare(
    model: nn.Module,
    batches: Iterable[Any],
    routes: Sequence[Route],
    *,
    task: Task | None = None,
    against: str = "labels",
    chance: float | None = None,
    metrics: Sequence[str] | None = None,
    way: Way = AS_GIVEN,
    progress: Callable[[int, int | None], None] | None = None,
) -> Comparison:
    """Evaluate routes on all batches, and compare each with the targets and with the unperturbed model.

    Args:
        model: A model that satisfies the contract, or can be bound to a batch and then does.
        batches: Batches as for ``iterconv.measure``.
        routes: The routes; the unperturbed one is evaluated in any case.
        task: The meaning of outputs; by default the adapted model's own task, else the task that fits the targets.
        against: The reference: ``"labels"``, or ``"predictions"`` of the unperturbed model.
        chance: The error of guessing; the task computes it by default.
        metrics: The metrics that are wanted; all by default.
        way: The precision and the memory format in which the model computes; its own by default.
        progress: A function that is called after each batch with the number of rows so far, and with None for the
            total, which is not known.

    Returns:
        The values of all rows, without the metrics that some batches lack.

    Raises:
        InputError: If there are no batches, or if a batch does not fit the model, the task or the way.
    """
    stages: Any = model.stages
    full = full_route(stages)
    size = (len(routes) + 1) * len(METRICS)
    numbers = way.numbers(model)
    parts: dict[Key, list[NDArray[np.float64]]] = defaultdict(list)
    counts: list[tuple[float, int, Tensor | None]] = []  # chance, rows and units of each batch
    with untouched(model), way.on(model):
        for batch in read_batches(model, batches, task, against):
            batch = replace(batch, inputs=way.arrange(batch.inputs))
            found = Judge(model, batch, against, chance, numbers)
            with untouched(model):  # each batch meets the model in the state in which it was given
                outcomes = _evaluate(model, [full, *routes], batch.inputs, numbers)
                columns = _columns(found, outcomes, full, metrics)
                for key, column in _in_one_array(columns, size):
                    parts[key].append(column)
            counts.append((found.chance, found.size, found.units))
            if progress:
                progress(sum(size for _, size, _ in counts), None)
    if not counts:
        raise InputError("there are no batches to measure on; pass an iterable of (inputs, targets)")
    chances, sizes, units = zip(*counts, strict=True)
    # A column is complete only if every batch has its metric.
    complete = {key: np.concatenate(column) for key, column in parts.items() if len(column) == len(sizes)}
    return Comparison(complete, float(np.average(chances, weights=sizes)), _number_units(units))


def _in_one_array(columns: Iterable[tuple[Key, Tensor]], size: int) -> Iterator[tuple[Key, NDArray[np.float64]]]:
    """Move columns of equal length into rows of one array, or of further ones after each ``size`` columns."""
    # Small arrays that outlive the activations between which they are allocated keep glibc from using the place of
    # freed activations again: measuring 10,000 images took 13 GB with an array of its own for each column.
    table = np.empty((0, 0))
    for number, (key, column) in enumerate(columns):
        if number % size == 0:
            table = np.empty((size, len(column)))
        row = table[number % size]
        row[:] = column.cpu().double().numpy()
        yield key, row


class Judge:
    """The comparison of one batch's outputs with its targets and with the ordinary pass, which ``begin`` makes known.

    Args:
        model: The model, which satisfies the contract or can be bound to a batch.
        batch: The batch.
        against: The reference: ``"labels"`` or ``"predictions"``.
        chance: The error of guessing; None if the task computes it.
        numbers: The numbers in which the model computes.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        against: str,
        chance: float | None = None,
        numbers: Numbers = nullcontext,
    ) -> None:
        self._batch, self._task = batch, batch.task
        self._against, self._given_chance = against, chance
        # An adapted model has made rows of its outputs already.
        rows_of = (lambda made, _: made) if isinstance(model, Bindable) else self._task.outputs
        # Probabilities of outputs in bfloat16 would be computed in it, too.
        self._rows_of = rows_of if numbers is nullcontext else lambda made, named: widen(rows_of(made, named))
        self._named = batch.named
        self._count = 0
        self._counted: Tensor | None = None

    def begin(self, made: Any) -> Tensor:
        """Derive from the unperturbed output the rows, targets and chance that all routes share; returns its rows."""
        outputs, targets = self._rows_of(made, self._named), self._batch.targets
        self._counted = None if targets is None else self._task.counted(targets)
        # Representations have one row for each row of the output, those that don't count included.
        self._count = len(outputs) if isinstance(outputs, Tensor) and outputs.ndim else 0
        if self._counted is not None and targets is not None and len(self._counted) == self._count:
            outputs, targets = self.select(outputs), targets[self._counted]
        self._task.check(outputs, targets, self._batch.number)
        # Without labels, the unperturbed predictions stand in for them.
        predicted = self._task.predict(outputs, targets)
        self.targets = predicted if targets is None or self._against == "predictions" else targets
        self._predicted, self.size = predicted, len(outputs)
        known = self._given_chance
        basis = predicted if targets is None else targets
        self.chance = self._task.chance(basis, outputs.shape[1]) if known is None else known
        self._all_units = self._task.units(self._named, self._count)
        self.units = None if self._all_units is None else self.select(self._all_units.cpu())
        return outputs

    def select(self, rows: Tensor) -> Tensor:
        """Leave out the rows that don't count."""
        return rows if self._counted is None else rows[self._counted.to(rows.device)]

    def rows_of(self, made: Any) -> Tensor:
        """Make rows of an output, those that count."""
        return self.select(self._rows_of(made, self._named))

    def metrics(self, outputs: Tensor) -> dict[str, Callable[[], Tensor]]:
        """Return functions that compute the metrics of rows, by name."""
        return self._task.metrics(outputs, self.targets, self._predicted, self.chance)

    def states(self, z: Any) -> Tensor | None:
        """Make rows of a representation, those that count; None if they do not correspond to rows of the output."""
        rows = self._task.rows(z, self._count, self._named)
        return None if rows is None else self.select(rows)

    def spread(self, values: Tensor) -> Tensor | None:
        """Give each row that counts the value of the example to which it belongs.

        Args:
            values: One value for each example of the batch.

        Returns:
            One value for each row; None if it is not known to which example a row belongs.
        """
        if self._all_units is not None and int(self._all_units.max()) < len(values):
            return self.select(values[self._all_units.to(values.device)])
        return self.select(values) if len(values) == self._count else None


def _evaluate(
    model: nn.Module, routes: Sequence[Route], inputs: Any, numbers: Numbers
) -> Iterator[tuple[Route, Outcome]]:
    """Evaluate routes in the numbers that were asked for; what is computed between two of them is not."""
    with numbers():
        outcomes = evaluate(model, routes, inputs)
    while True:
        with numbers():
            found = next(outcomes, None)
        if found is None:
            return
        yield found


def _columns(
    judge: Judge, outcomes: Iterable[tuple[Route, Outcome]], full: Route, metrics: Sequence[str] | None
) -> Iterator[tuple[Key, Tensor]]:
    """Yield the values of each metric of the outcomes, of which that of the unperturbed route is the first."""
    intact = None
    for route, outcome in outcomes:
        if intact is None:
            outputs, intact = judge.begin(outcome.output), outcome.stage_outputs
        else:
            outputs = judge.rows_of(outcome.output)
        for metric, compute in judge.metrics(outputs).items():
            if metrics is None or metric in metrics:
                yield (route, metric, OUTPUT), compute()
        if metrics is None or "distance" in metrics:
            # Where a stage is perturbed, only its own end is measured: all later ones differ as a consequence.
            perturbed = [stage for stage, path in enumerate(route) if path != full[stage]]
            for stage in perturbed or range(len(full)):
                rows = [judge.states(ends[stage]) for ends in (outcome.stage_outputs, intact)]
                if rows[0] is not None and rows[1] is not None:
                    yield (route, "distance", stage), distance(rows[0], rows[1])


def read_batches(model: nn.Module, batches: Iterable[Any], task: Task | None, against: str) -> Iterator[Batch]:
    """Read all batches in the form that the model takes; the first targets tell the task if none is given.

    Args:
        model: A model as for ``compare``.
        batches: Batches as for ``iterconv.measure``.
        task: The same as for ``compare``.
        against: The same as for ``compare``; targets may be missing unless it is ``"labels"``.

    Yields:
        The batches in their order.

    Raises:
        InputError: If a batch does not fit, or if some have class numbers and others rows of labels.
    """
    task = task or (model.task if isinstance(model, Bindable) else None)
    first: tuple[int, int] | None = None  # the number of the first batch with targets, and their dimensions
    for number, batch in enumerate(batches):
        inputs, targets = split_batch(batch)
        if targets is not None:
            check_targets(inputs, targets, number)
        check_inputs(inputs, number)
        inputs = match_model(inputs, model)
        named = inputs_by_name(inputs, model)
        if task is not None:
            targets = task.targets(targets, named)
        if targets is None and against == "labels":
            raise InputError(
                f"batch {number} is a {type(batch).__name__}, not a pair; pass (inputs, targets), or measure with "
                "against='predictions'"
            )
        if task is None and targets is not None:
            first = first or (number, targets.ndim)
            if targets.ndim != first[1]:
                raise InputError(
                    f"batch {number} has targets of {targets.ndim} dimension(s), batch {first[0]} of {first[1]}; give "
                    "all batches class numbers (n,), or all of them 0/1 rows (n, classes)"
                )
        if targets is not None and targets.ndim == 1 and targets.dtype in WHOLE:
            targets = targets.long()  # torch's losses index by it
        yield Batch(number, inputs, named, match_model(targets, model), task or task_of(targets))


def _number_units(parts: Sequence[Tensor | None]) -> NDArray[np.int64] | None:
    """Number the units of all batches one after the other; None if each row is a unit of its own."""
    numbers, count = [], 0
    for part in parts:
        if part is None:
            return None
        numbers.append(part.numpy() + count)
        count = int(numbers[-1].max(initial=count - 1)) + 1
    return np.concatenate(numbers)
