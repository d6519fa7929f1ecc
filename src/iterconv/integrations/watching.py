"""What the callbacks of all training loops share: measuring now and then, and a dial that follows a schedule."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from torch import nn
from torch.optim import Optimizer

from iterconv.coupling import Coupling, couple
from iterconv.errors import InputError, check_count
from iterconv.measuring import measure

Schedule = float | Callable[[int], float]
"""The strength of the coupling in [0, 1]: a number, or a function of the epoch, which counts from 0."""


class Watch:
    """Measurements of one model during its training.

    Args:
        batches: Batches as for ``iterconv.measure``, which are read anew at each measurement, so not an iterator.
        find: A function from what the training loop trains to the model that is measured; by default itself.
        every: The number of epochs from one measurement to the next; the first one is after so many epochs.
        options: Options of ``iterconv.measure``.

    Raises:
        InputError: If batches can be read only once, or ``every`` is not a number of epochs.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        find: Callable[[Any], nn.Module] | None,
        every: int,
        options: dict[str, Any],
    ) -> None:
        if iter(batches) is batches:
            raise InputError(
                f"batches is a {type(batches).__name__}, which can be read once; pass a list or a DataLoader"
            )
        self._batches, self._find, self._options = batches, find or (lambda module: module), options
        self._every = check_count("every", every, why="measures never")
        self._found: list[pd.DataFrame] = []

    @property
    def indices(self) -> pd.DataFrame:
        """All measurements so far: the columns of ``Report.indices``, after ``epoch`` (from 1) and ``error``."""
        return pd.concat(self._found, ignore_index=True) if self._found else pd.DataFrame()

    def measure(self, trained: Any, epoch: int) -> dict[str, float]:
        """Measure after an epoch if its turn has come.

        Args:
            trained: What the training loop trains.
            epoch: The number of finished epochs, from 1.

        Returns:
            The means over stages of the defined indices, and the error on the batches, by names such as
            ``iterconv/convergence``; empty between two measurements.
        """
        if epoch % self._every:
            return {}
        report = measure(self._find(trained), self._batches, **self._options)
        rows = report.indices.copy()
        rows.insert(0, "epoch", epoch)
        rows.insert(1, "error", report.intact_error)
        self._found.append(rows)
        means = rows[(rows["stage"] == "mean") & rows["defined"].astype(bool)]
        found = {f"iterconv/{row.index_}": row.value for row in means.rename(columns={"index": "index_"}).itertuples()}
        return {**found, "iterconv/error": report.intact_error}


class Measuring:
    """What callbacks that measure share, beside the class that their training loop asks for."""

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        find: Callable[[Any], nn.Module] | None = None,
        every: int = 1,
        **options: Any,
    ) -> None:
        self._watch = Watch(batches, find, every, options)

    @property
    def indices(self) -> pd.DataFrame:
        """All measurements so far: the columns of ``Report.indices``, after ``epoch`` (from 1) and ``error``."""
        return self._watch.indices


class Dial:
    """A coupling whose strength follows a schedule.

    Args:
        groups: The groups as for ``iterconv.couple``, or a function that makes them from what the loop trains.
        strength: The schedule.
        kernel: The kernel as for ``iterconv.couple``.
    """

    def __init__(self, groups: Any, strength: Schedule, kernel: Any) -> None:
        self._groups, self._strength, self._kernel = groups, strength, kernel
        self._handles: list[Coupling] = []

    def start(self, trained: Any, optimizers: Iterable[Any], epoch: int) -> None:
        """Couple the optimizers of a training loop.

        Args:
            trained: What the training loop trains.
            optimizers: Its optimizers; those that hold none of the coupled parameters are left alone.
            epoch: The number of the epoch that begins, from 0.

        Raises:
            InputError: As for ``iterconv.couple``, or if no optimizer holds the parameters.
        """
        groups = self._groups(trained) if callable(self._groups) else self._groups
        own = {id(parameter) for group in groups for module in group for parameter in module.parameters()}
        for optimizer in optimizers:
            plain: Optimizer = getattr(optimizer, "optimizer", optimizer)
            held = {id(parameter) for entry in plain.param_groups for parameter in entry["params"]}
            if own & held:
                self._handles.append(couple(optimizer, groups, self._at(epoch), kernel=self._kernel))
        if not self._handles:
            raise InputError(
                "no optimizer of this training holds the parameters of the groups; pass groups of its model"
            )

    def turn(self, epoch: int) -> float:
        """Set the strength of an epoch, from 0; returns it."""
        for handle in self._handles:
            handle.strength = self._at(epoch)
        return self._at(epoch)

    def stop(self) -> None:
        """Uncouple the optimizers."""
        while self._handles:
            self._handles.pop().remove()

    def _at(self, epoch: int) -> float:
        return self._strength(epoch) if callable(self._strength) else self._strength
