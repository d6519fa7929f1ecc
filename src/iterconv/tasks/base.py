"""``Task``: how outputs, targets, representations and errors of one model belong together."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from iterconv.errors import InputError
from iterconv.options import Metric
from iterconv.tasks.nested import first_tensor

Output = Callable[[Any, Any], Tensor]
"""A function of a model's output and its batch that returns logits (rows, classes)."""

METRICS: tuple[str, ...] = get_args(Metric)
"""``exact_error`` exists for several labels only; ``disagreement`` is the error against the unperturbed model's own
predictions; ``distance`` is the one metric of representations, all others are metrics of outputs."""


class Task(ABC):
    """The meaning of a model's output, as rows that are right or wrong.

    A row is what is predicted once: an example, a token, a pixel. Subclasses say how rows are made of what a model
    returns, and how a row is compared with its target. A task has no state of a batch.
    """

    def outputs(self, made: Any, inputs: Any) -> Tensor:
        """Make rows of what a model returns.

        Args:
            made: The model's output of any structure.
            inputs: The batch that it was made of.

        Returns:
            Logits of shape (rows, classes).

        Raises:
            InputError: If there is no tensor in it.
        """
        return logits(made)

    def targets(self, given: Any, inputs: Any) -> Any:
        """Make one target a row of the targets that came with a batch.

        Args:
            given: The batch's targets, or None.
            inputs: The batch's inputs.

        Returns:
            A tensor whose first dimension is the rows, or None where there are no targets.
        """
        return given

    def rows(self, z: Any, count: int, inputs: Any) -> Tensor | None:
        """Make rows of a representation that belong to the rows of the output. Padding is set to 0.

        Args:
            z: The representation at the end of a stage; None where a perturbed pass never reached the stage.
            count: The number of rows of the output.
            inputs: The batch's inputs.

        Returns:
            A tensor of ``count`` rows. None if no row of the representation belongs to a row of the output, as where
            patches were moved into the batch, or where sequences come first.
        """
        if not isinstance(z, Tensor) or z.ndim < 2:
            return None
        if len(z) == count:
            return without_padding(z, inputs)
        return z.flatten(0, 1) if z.ndim > 2 and z.shape[0] * z.shape[1] == count else None

    def units(self, inputs: Any, count: int) -> Tensor | None:
        """Number the units that the bootstrap resamples, such as sequences, whose tokens are not independent.

        Args:
            inputs: The batch's inputs.
            count: The number of rows of the output.

        Returns:
            The unit of each row from 0, of shape (rows,). None if each row is a unit of its own.
        """
        return None

    def counted(self, targets: Tensor) -> Tensor | None:
        """Tell which rows count.

        Args:
            targets: One target a row.

        Returns:
            A Boolean tensor of shape (rows,), or None if all rows count.
        """
        return None

    def check(self, outputs: Any, targets: Any, number: int) -> None:
        """Raise ``InputError`` unless outputs are finite rows, and targets, where there are any, fit them.

        Args:
            outputs: The rows of the unperturbed model.
            targets: Their targets, or None.
            number: The batch's number from 0, for the message.
        """
        rows = "n" if targets is None else len(targets)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or rows not in ("n", len(outputs)) or not len(outputs):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InputError(
                f"the model's output is {shape}; measuring needs a tensor of shape ({rows}, classes), so pass task= "
                "(iterconv.tasks.Sequences() for a class a position, Pixels() for a class a pixel), or output=, as "
                "iterconv.adapt(model, inputs, output=lambda output, inputs: output.mean(1))"
            )
        if not bool(torch.isfinite(outputs).all()):
            raise InputError(
                f"the unperturbed model's output for batch {number} has NaN or infinite values; check its weights"
            )
        if targets is not None:
            self.check_targets(targets, outputs.shape[1])

    @abstractmethod
    def check_targets(self, targets: Tensor, classes: int) -> None:
        """Raise ``InputError`` unless the targets are of this task's kind and fit the number of ``classes``."""

    @abstractmethod
    def predict(self, outputs: Float[Tensor, "n classes"], targets: Any) -> Shaped[Tensor, "n *classes"]:
        """Predict from each row.

        Args:
            outputs: The rows.
            targets: The targets, which may tell how much is to be predicted; None if there are none.

        Returns:
            Predictions of the targets' shape and kind.
        """

    @abstractmethod
    def wrong(self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"]) -> Float[Tensor, " n"]:
        """The error in [0, 1] of each finite row of ``outputs``, compared with its row of ``targets``."""

    @abstractmethod
    def chance(self, targets: Shaped[Tensor, "n *classes"], classes: int) -> float:
        """The error of guessing.

        Source: Lippl et al., Sec. 3.3 (90% for ten classes). Choice: classes are taken as balanced.

        Args:
            targets: One target a row.
            classes: The number of outputs of the model.

        Returns:
            The error in [0, 1].
        """

    @abstractmethod
    def cross_entropy(
        self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"]
    ) -> Float[Tensor, " n"]:
        """The cross-entropy of each row of ``outputs`` against its row of ``targets``, in nats."""

    def error(
        self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"], chance: float
    ) -> Float[Tensor, " n"]:
        """The error of each row.

        Choice: a row that is not finite, as after many extra evaluations, counts as a guess.

        Args:
            outputs: The rows.
            targets: One target a row.
            chance: The error of guessing, in [0, 1].

        Returns:
            Errors in [0, 1].
        """
        return torch.where(torch.isfinite(outputs).all(1), self.wrong(outputs, targets).float(), chance)

    def loss(self, outputs: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"]) -> Float[Tensor, ""]:
        """The training loss: the mean cross-entropy of ``outputs`` and ``targets``. Source: Lippl et al., Sec. A.4."""
        return self.cross_entropy(outputs, targets).mean()

    def metrics(
        self, outputs: Float[Tensor, "n classes"], targets: Any, predicted: Any, chance: float
    ) -> dict[str, Callable[[], Tensor]]:
        """All metrics of outputs, one value a row.

        Args:
            outputs: The rows of a perturbed model.
            targets: One target a row.
            predicted: The predictions of the unperturbed model.
            chance: The error of guessing, in [0, 1].

        Returns:
            Functions that compute the values, by the names in ``METRICS``, so that only what is wanted is computed.
        """
        return {
            "error": lambda: self.error(outputs, targets, chance),
            "disagreement": lambda: self.error(outputs, predicted, chance),
            "cross_entropy": lambda: self.cross_entropy(outputs, targets),
        }


def logits(made: Any, inputs: Any = None) -> Tensor:
    """Find the tensor of logits in what a model returns: ``logits`` by name, or the first tensor.

    Args:
        made: The model's output of any structure.
        inputs: The batch, which is not looked at.

    Returns:
        The tensor.

    Raises:
        InputError: If there is no tensor.
    """
    found = getattr(made, "logits", None)
    if found is None and isinstance(made, Mapping):
        found = made.get("logits")
    found = first_tensor(made) if found is None else found
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model's output is a {type(made).__name__}; pass output=, a function that makes logits of it"
        )
    return found


def distance(perturbed: Tensor, intact: Tensor) -> Float[Tensor, " n"]:
    """The Euclidean distance between a perturbed and the unperturbed representation, for each row.

    Source: Lippl et al., App. B.
    """
    # Squares of activations soon exceed the largest number of half precision.
    wide = torch.promote_types(perturbed.dtype, torch.float32)
    return (perturbed.to(wide) - intact.to(wide)).flatten(1).norm(dim=1)


def mask_of(inputs: Any) -> Tensor | None:
    """Return the ``attention_mask`` of a batch, of shape (n, length), which is 0 at padding; None if there is none."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def unpadded(inputs: Any, shape: torch.Size) -> Tensor | None:
    """Tell which positions of a representation are not padding.

    Args:
        inputs: The batch's inputs; a mapping may tell it under ``attention_mask``.
        shape: The representation's shape, (n, length, ...) if its positions are the batch's tokens.

    Returns:
        A Boolean tensor of shape (n, length), or None if the batch does not tell.
    """
    mask = mask_of(inputs)
    return None if mask is None or shape[:2] != mask.shape or len(shape) < 3 else mask.bool()


def without_padding(z: Tensor, inputs: Any) -> Tensor:
    """Set a representation to 0 at positions that are padding, if the batch's ``attention_mask`` tells them."""
    # Padding is set to 0 and not left out, so that there is still one row for each example.
    kept = unpadded(inputs, z.shape)
    return z if kept is None else torch.where(kept.to(z.device).view(*kept.shape, *[1] * (z.ndim - 2)), z, 0)
