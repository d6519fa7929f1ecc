"""The fitting of a copy whose blocks are tied, to the intact model's blocks and then to the task."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from iterconv.adapters.adapt import AdaptedModel
from iterconv.adapters.calls import call, switch_off_caches
from iterconv.adapters.recording import Recording
from iterconv.errors import InputError
from iterconv.measuring.compare import Batch, read_batches
from iterconv.paths import block_inputs, untouched
from iterconv.tasks import Task
from iterconv.tasks.base import without_padding
from iterconv.tasks.classes import WHOLE
from iterconv.tying.copies import Twin

LARGEST_GRADIENT = 1.0
"""The norm to which gradients are clipped."""


class MakeOptimizer(Protocol):
    """A class of torch's optimizers, or a function like one."""

    def __call__(self, params: list[nn.Parameter], *, lr: float) -> Optimizer:
        """Make an optimizer of parameters."""


@dataclass(eq=False)
class Followed:
    """One stage of the intact model on one batch, and the copy's blocks in its place."""

    step: Callable[[int, Tensor, Tensor], Tensor]
    """A function that applies a block of the copy to a representation, given the input of the stage."""
    entering: list[Tensor] = field(default_factory=list)
    leaving: list[Tensor] = field(default_factory=list)


def follow(staged: Any, twin: Twin | None, inputs: Any) -> list[Followed]:
    """Run the intact model on a batch, and record what enters and leaves each of its blocks.

    Args:
        staged: The intact model, which is left as it was.
        twin: The copy; its blocks get the further arguments that the intact model gives its own. None for the intact
            model itself.
        inputs: The batch.

    Returns:
        The stages.
    """
    found: list[Followed] = []
    with untouched(staged):
        bound = staged
        if isinstance(staged, AdaptedModel):
            driven = [stage.driven for stage in staged.stages]
            bound = Recording(staged.model, driven, [False] * len(driven), (), staged.output_of, inputs)
        for number, block, entering, leaving, stage in block_inputs(bound, inputs):
            if block == 0:
                found.append(Followed(_step(stage, number, twin, isinstance(staged, AdaptedModel))))
            found[-1].entering.append(entering)
            found[-1].leaving.append(leaving)
    return found


def _step(stage: Any, number: int, twin: Twin | None, adapted: bool) -> Callable[[int, Tensor, Tensor], Tensor]:
    """Return the step of a stage of the intact model, or that of the copy's stage in its place."""
    if twin is not None and adapted:
        stage.blocks = tuple(twin.stages[number])  # a stage that is bound to one batch
    elif twin is not None:
        stage = twin.model.stages[number]  # type: ignore[index]
    step: Callable[[int, Tensor, Tensor], Tensor] = stage.step
    return step


def check_steps(staged: Any, inputs: Any) -> None:
    """Raise ``InputError`` unless the blocks of each stage, run one by one, give the bits of the whole pass."""
    with untouched(staged):
        for stage, followed in zip(staged.stages, follow(staged, None, inputs), strict=True):
            if bool(block_errors(followed, free=True).any()):
                raise InputError(
                    f"stage {getattr(stage, 'name', '')} can't be run block by block, as something happens between its "
                    "blocks; name other stages, as iterconv.adapt(model, inputs, stages=[...])"
                )


def block_errors(stage: Followed, free: bool, named: Any = None) -> Tensor:
    """Compare the copy of a stage with the intact one, after every place.

    Args:
        stage: The stage on one batch.
        free: True if each block of the copy goes on from the one before; else each gets the representation that enters
            its place in the intact model.
        named: The batch's inputs, whose padding does not count.

    Returns:
        The squared difference of the representations over the squared length of the intact update, of shape (blocks,).
    """
    z, errors = stage.entering[0], []
    for place, (entering, leaving) in enumerate(zip(stage.entering, stage.leaving, strict=True)):
        # A copy, since a block may change its input in place.
        z = stage.step(place, (z if free else entering).clone(), stage.entering[0])
        update = without_padding(leaving - entering, named).float().square().sum()
        # A block that does nothing has no update to be compared with.
        least = torch.finfo(torch.float32).eps * entering.float().square().sum()
        errors.append(without_padding(z - leaving, named).float().square().sum() / torch.maximum(update, least))
    return torch.stack(errors)


def task_loss(staged: Any, model: nn.Module, batch: Batch) -> Tensor:
    """Compute the task's loss of a copy on one batch with targets.

    Args:
        staged: The intact model, which tells what its output means.
        model: The copy, or the model itself.
        batch: The batch.

    Returns:
        The loss, a single number.

    Raises:
        InputError: If the outputs don't fit the targets, or are not finite.
    """
    if isinstance(staged, AdaptedModel):
        with switch_off_caches(model):
            outputs = staged.output_of(call(model, batch.inputs), batch.inputs)
    else:
        outputs = batch.task.outputs(model(batch.inputs), batch.named)
    return rows_loss(batch.task, outputs, batch.targets, batch.number)


def rows_loss(task: Task, outputs: Any, targets: Any, number: int) -> Tensor:
    """Compute a task's loss of the rows that count.

    Args:
        task: The task.
        outputs: The rows.
        targets: Their targets.
        number: The batch's number from 0, for messages.

    Returns:
        The loss, a single number.

    Raises:
        InputError: If the outputs don't fit the targets, or are not finite.
    """
    counted = task.counted(targets)
    if counted is not None and len(counted) == len(outputs):
        outputs, targets = outputs[counted.to(outputs.device)], targets[counted]
    task.check(outputs, targets, number)
    return task.loss(outputs, targets.long() if targets.ndim == 1 and targets.dtype in WHOLE else targets)


def feed(staged: Any, batches: Sequence[Any], task: Task | None, against: str, seed: int) -> Iterator[Batch]:
    """Yield batches for ever: all of them in a random order, then all in another."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for number in torch.randperm(len(batches), generator=generator).tolist():
            yield from read_batches(staged, [batches[number]], task, against)


Losses = Callable[[Batch], Iterable[Tensor]]
"""A function of a batch that yields the parts of a loss; each is differentiated before the next is computed."""


def run_steps(
    steps: int, losses: Losses, batches: Iterator[Batch], optimizer: Optimizer, after: Callable[[int, float], None]
) -> None:
    """Minimise a loss by a number of steps, with a learning rate that falls to 0 as a half cosine.

    Args:
        steps: The number of steps.
        losses: The loss.
        batches: The batches, of which each step takes one.
        optimizer: The optimizer.
        after: A function that is called after each step with its number from 0 and its loss.

    Raises:
        InputError: If the loss is not finite.
    """
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        with torch.enable_grad():
            for loss in losses(next(batches)):
                loss.backward()
                total += float(loss.detach())
        if not math.isfinite(total):
            raise InputError(f"the loss of step {step + 1} is not finite; use a smaller lr")
        nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        after(step, total)
    optimizer.zero_grad()
