"""Per-example metrics: what a perturbed output is compared with, and how."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from iterconv.errors import InputError

METRICS = ("error", "exact_error", "disagreement", "cross_entropy", "distance")
"""``exact_error`` is there for several labels only; ``disagreement`` is the error against the unperturbed model's
own predictions."""


def check_batch(inputs: Any, targets: Any, number: int) -> None:
    """Raise ``InputError`` for a batch that can't be measured: no tensor of targets, unequal lengths, not finite.

    Args:
        inputs: The model's input; tensors are checked, anything else is left to the model.
        targets: One label, or one row of 0/1 labels, an example.
        number: The batch's number from 0, for the message.
    """
    if not isinstance(targets, Tensor):
        raise InputError(f"batch {number} has targets of type {type(targets).__name__}; pass (inputs, targets) tensors")
    if targets.ndim == 0 or len(targets) == 0:
        raise InputError(f"batch {number} is empty or a single number; pass batches of at least one example")
    check_inputs(inputs, number)
    if isinstance(inputs, Tensor) and len(inputs) != len(targets):
        raise InputError(f"batch {number} has {len(inputs)} inputs and {len(targets)} targets; they must pair up")


def check_inputs(inputs: Any, number: int) -> None:
    """Raise ``InputError`` for inputs that are empty or have NaN; infinity is for masks among several inputs only.

    Args:
        inputs: The model's input; tensors are checked, anything else is left to the model.
        number: The batch's number from 0, for the message.
    """
    tensors = [tensor for tensor in _tensors(inputs) if tensor.is_floating_point()]
    bad = [torch.isfinite(tensor).logical_not() if tensor is inputs else tensor.isnan() for tensor in tensors]
    if any(bool(found.any()) for found in bad):
        raise InputError(f"batch {number} has NaN or infinite inputs; clean the data before measuring")
    if isinstance(inputs, Tensor) and (inputs.ndim == 0 or len(inputs) == 0):
        raise InputError(f"batch {number} is empty or a single number; pass batches of at least one example")


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a nested batch."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def settled(targets: Tensor | None, output: Any, number: int) -> Shaped[Tensor, "n *classes"]:
    """What a batch's errors are taken against: its targets, or the predicted classes where there are none.

    Args:
        targets: Class numbers of shape (n,), 0/1 rows of shape (n, classes), or None.
        output: What the unperturbed model makes of the batch.
        number: The batch's number from 0, for messages.

    Raises:
        InputError: If the output is not a row of finite numbers for each example, or the targets don't fit it.
    """
    _check_output(output, "n" if targets is None else len(targets), number)
    if targets is None:
        return output.argmax(1)
    _check_targets(targets, output)
    return targets


def _check_targets(targets: Tensor, output: Tensor) -> None:
    classes = output.shape[1]
    if targets.ndim == 2:
        if targets.shape[1] != classes or not bool(((targets == 0) | (targets == 1)).all()):
            raise InputError(
                f"targets of shape {tuple(targets.shape)} must be 0/1 rows of {classes} outputs each; a batch of two "
                "is (inputs, targets), so that inputs of two arguments are passed as ((a, b), None)"
            )
        lacking = targets.sum(1).argmin()
        if not bool(targets[lacking].any()):
            raise InputError(f"row {int(lacking)} of the targets has no label; leave out examples without one")
    elif targets.ndim != 1 or targets.is_floating_point() or targets.dtype == torch.bool:
        raise InputError(
            f"targets of shape {tuple(targets.shape)}, {targets.dtype}, are neither class numbers nor 0/1 rows"
        )
    elif int(targets.min()) < 0 or int(targets.max()) >= classes:
        wrong = int(targets.min()) if int(targets.min()) < 0 else int(targets.max())
        raise InputError(
            f"label {wrong} is out of range: the model has {classes} outputs, so labels are 0..{classes - 1}"
        )


def _check_output(output: Any, rows: int | str, number: int) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2 or rows not in ("n", len(output)) or output.numel() == 0:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"the model's output is {shape}; measuring needs a tensor of shape ({rows}, classes), so pass output=, as "
            "iterconv.adapt(model, inputs, output=lambda output, inputs: output.mean(1))"
        )
    if not bool(torch.isfinite(output).all()):
        raise InputError(
            f"the unperturbed model's output for batch {number} has NaN or infinite values; check its weights"
        )


def chance_level(targets: Shaped[Tensor, "n *classes"], classes: int) -> float:
    """The error of guessing: 1 - 1/classes, or 1 - labels/classes where several labels hold.

    Source: Lippl et al., Sec. 3.3 (90% for ten classes). Choice: classes are taken as balanced.

    Args:
        targets: Class numbers of shape (n,), or 0/1 rows of shape (n, classes).
        classes: The number of outputs.

    Returns:
        A number in [0, 1].
    """
    labels = targets.float().sum(1).mean().item() if targets.ndim == 2 else 1.0
    return 1.0 - labels / classes


def predict(output: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"]) -> Shaped[Tensor, "n *classes"]:
    """The predicted class, or for 0/1 targets the set of as many highest outputs as there are labels.

    Args:
        output: The model's output.
        targets: They give the form of the prediction and, where several labels hold, how many.

    Returns:
        Predictions of the targets' shape and kind.
    """
    if targets.ndim == 1:
        return output.argmax(1)
    ranks = output.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (ranks < targets.sum(1, keepdim=True)).to(targets.dtype)


def error(
    output: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"], chance: float
) -> Float[Tensor, " n"]:
    """Error of each example: 0 or 1, or the fraction of its labels that are missed.

    Choice: an example whose output is not finite, as after many extra evaluations, counts as a guess.

    Args:
        output: The model's output.
        targets: Class numbers of shape (n,), or 0/1 rows of shape (n, classes).
        chance: The error of guessing, in [0, 1].

    Returns:
        Errors in [0, 1].
    """
    predicted = predict(output, targets)
    if targets.ndim == 1:
        wrong = (predicted != targets).float()
    else:
        wrong = 1 - (predicted * targets).sum(1) / targets.sum(1).clamp(min=1)
    return torch.where(torch.isfinite(output).all(1), wrong.float(), chance)


def exact_error(
    output: Float[Tensor, "n classes"], targets: Float[Tensor, "n classes"], chance: float
) -> Float[Tensor, " n"]:
    """1 where the predicted set of labels is not exactly the true one, else 0.

    Args:
        output: The model's output.
        targets: 0/1 rows of shape (n, classes).
        chance: The error of guessing a set, for outputs that are not finite.

    Returns:
        Errors in [0, 1].
    """
    wrong = (predict(output, targets) != targets).any(1).float()
    return torch.where(torch.isfinite(output).all(1), wrong, chance)


def cross_entropy(output: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"]) -> Float[Tensor, " n"]:
    """Cross-entropy of each example in nats; for 0/1 targets the mean binary one over the outputs.

    Args:
        output: The model's output (logits).
        targets: Class numbers of shape (n,), or 0/1 rows of shape (n, classes).

    Returns:
        Non-negative numbers.
    """
    if targets.ndim == 1:
        return F.cross_entropy(output.float(), targets, reduction="none")
    return F.binary_cross_entropy_with_logits(output.float(), targets.float(), reduction="none").mean(1)


def distance(perturbed: Tensor, intact: Tensor) -> Float[Tensor, " n"]:
    """Euclidean distance of each example's perturbed stage output to the unperturbed one.

    Source: Lippl et al., App. B.
    """
    return (perturbed.float() - intact.float()).flatten(1).norm(dim=1)


def loss(output: Float[Tensor, "n classes"], targets: Shaped[Tensor, "n *classes"]) -> Float[Tensor, ""]:
    """The training loss: mean cross-entropy, binary for 0/1 targets. Source: Lippl et al., Sec. A.4."""
    return cross_entropy(output, targets).mean()
