"""``tie``: a copy of a model in which runs of alike blocks become one block that is applied as often."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from iterconv.adapters.staged import as_staged
from iterconv.coupling import couple
from iterconv.errors import OptionError, check_choice, check_count, check_range
from iterconv.measuring.compare import Batch, read_batches
from iterconv.measuring.similarity import similarity
from iterconv.options import Tying
from iterconv.paths import untouched
from iterconv.tasks import Task
from iterconv.tying.copies import Twin, approach_, check_blocks, make_twin, original_of, tie_, untie_
from iterconv.tying.fitting import MakeOptimizer, block_errors, check_steps, feed, follow, run_steps, task_loss
from iterconv.tying.phases import check_groups, find_phases
from iterconv.tying.tied import Tied

PARTS = {"fit": ("teacher forcing", "free-running", "task"), "dial": ("task",)}
"""The parts of the fitting, in their order."""
STEPS = {"fit": (200, 200, 400), "dial": (800,)}
"""The default number of steps of each part."""


def tie(
    model: nn.Module,
    batches: Iterable[Any],
    groups: int,
    *,
    how: Tying = "fit",
    steps: Sequence[int] | None = None,
    lr: float = 1e-3,
    optimizer: MakeOptimizer = torch.optim.Adam,
    task: Task | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    on_part: Callable[[str, nn.Module], None] | None = None,
) -> Tied:
    """Make a recurrent surrogate: a copy in which each run of alike blocks is one block that is applied as often.

    The runs are the phases of ``iterconv.tying.find_phases``. With ``how="fit"``, the blocks of each phase become their
    mean, floating buffers included, and this block is then fitted. In *teacher forcing*, each place gets the
    representation that enters it in the intact model, and the relative squared error of the update is minimised. In
    *free-running*, each stage goes on from its own representations, and is compared with the intact one after every
    place. Then all of the copy is trained on the *task*. With ``how="dial"``, the blocks start as they are, and are
    coupled (``iterconv.couple``) while the copy is trained on the task, at a strength that rises from 0 to 1 in the
    first half of the steps.

    Source: *Block-Recurrent Dynamics in Vision Transformers* (arXiv 2512.19941) for ``"fit"``; Lippl et al., Sec. 4.1,
    for the coupling. Choice: the copy is trained in evaluation mode, so batch statistics stay as they are and nothing
    is dropped out; gradients are clipped to a norm of 1, and the learning rate falls as a half cosine in each part.
    Choice: coupled gradients never bring different blocks together, so ``"dial"`` also scales their deviations from
    the phase's mean by 1 - strength.

    Args:
        model: A model as for ``iterconv.measure``; it is left exactly as it was.
        batches: Batches for training, as for ``iterconv.measure``. Targets are needed for the task's part only.
        groups: The number of different blocks that are left, from one a stage to all.
        how: ``"fit"`` or ``"dial"``.
        steps: The number of steps of each part, one batch a step: (teacher forcing, free-running, task), by default
            (200, 200, 400); for ``"dial"`` (task,), by default (800,).
        lr: The learning rate at the start of each part.
        optimizer: A class of torch's optimizers, or a function that takes parameters and ``lr=`` and returns one.
        task: The same as for ``iterconv.measure``.
        seed: The seed of the order of the batches.
        progress: A function that is called after each step with the steps done and all steps.
        on_part: A function that is called with ``"start"``, and then with the name of each part that has steps, after
            it, and with the copy as it is then, in evaluation mode and without gradients. It has to leave the copy as
            it is.

    Returns:
        The surrogate, with its phases and the history of its losses.

    Raises:
        InputError: If an option is out of range, if a stage can't be run block by block or has blocks of different
            structure, if batches don't fit, or if the loss is not finite.
    """
    check_choice("how", how, Tying)
    counts = _check_steps(how, steps)
    lr = check_range("lr", lr, "(0, inf)", "0.001 is a good start")
    seed = check_count("seed", seed, 0)
    staged, batches = as_staged(model, batches, task)
    check_blocks(staged)
    groups = check_groups(groups, [len(stage.blocks) for stage in staged.stages])
    kept, against = list(batches), "labels" if counts[-1] else "predictions"
    for batch in read_batches(staged, kept, task, against):
        if batch.number == 0:
            check_steps(staged, batch.inputs)
        if batch.number == 0 and counts[-1]:
            with untouched(staged):
                task_loss(staged, original_of(staged), batch)
    phases = find_phases(similarity(staged, kept), groups)
    twin = make_twin(staged)
    runs = [twin.stages[row.stage][row.start : row.end] for row in phases.itertuples()]
    modes = [(module, module.training) for module in twin.model.modules()]
    twin.model.eval()
    fit = _Fit(staged, twin, runs, lambda parameters: optimizer(parameters, lr=lr), progress, on_part)
    fit.total = sum(counts)
    shared = fit.run(how, counts, feed(staged, kept, task, against, seed))
    if hasattr(twin.model, "save_pretrained"):  # which refuses tensors that are shared unknown to the configuration
        for run, tensors in zip(runs, shared, strict=True):
            untie_(run, tensors)
    for module, training in modes:
        module.training = training
    options = {"groups": groups, "how": how, "steps": list(counts), "lr": lr, "seed": seed}
    return Tied(twin.model, phases, pd.DataFrame(fit.history, columns=["step", "part", "loss"]), options)


def _check_steps(how: str, steps: Any) -> tuple[int, ...]:
    counts = STEPS[how] if steps is None else steps
    if not isinstance(counts, Sequence) or len(counts) != len(PARTS[how]):
        raise OptionError("steps", steps, f"is not one number for each part ({', '.join(PARTS[how])})")
    return tuple(check_count("steps", count, 0) for count in counts)


class _Fit:
    """The fitting of one copy.

    Args:
        staged: The intact model.
        twin: The copy.
        runs: The blocks of each phase in the copy.
        make_optimizer: A function that makes an optimizer of parameters.
        progress: A function that is called after each step.
        on_part: A function that is called after each part.
    """

    def __init__(
        self,
        staged: Any,
        twin: Twin,
        runs: list[list[nn.Module]],
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        progress: Callable[[int, int], None] | None,
        on_part: Callable[[str, nn.Module], None] | None,
    ) -> None:
        self._staged, self._twin, self._runs, self._make = staged, twin, runs, make_optimizer
        self._progress, self._on_part = progress or (lambda done, of: None), on_part or (lambda part, model: None)
        self.history: list[tuple[int, str, float]] = []
        self.total = 0

    def run(self, how: str, counts: tuple[int, ...], batches: Iterator[Batch]) -> list[list[Tensor]]:
        """Run all parts; returns the tensors that the blocks of each phase share in the end."""
        shared = [] if how == "dial" else [tie_(run) for run in self._runs]
        self._show("start")
        for part, steps in zip(PARTS[how], counts, strict=True):
            if not steps and how == "fit":
                continue
            if how == "dial":
                self._turn_dial(steps, batches)
                shared = [tie_(run) for run in self._runs]
            elif part == "task":
                self._steps(part, steps, self._task, batches, self._optimizer([self._twin.model]))
            else:
                losses = self._teach if part == "teacher forcing" else self._release
                self._steps(part, steps, losses, batches, self._optimizer(self._twin.blocks()))
            self._show(part)
        return shared

    @torch.no_grad()
    def _show(self, part: str) -> None:
        self._on_part(part, self._twin.model)

    def _steps(
        self,
        part: str,
        steps: int,
        losses: Callable[[Batch], Iterable[Tensor]],
        batches: Iterator[Batch],
        optimizer: torch.optim.Optimizer,
        after: Callable[[int], None] = lambda step: None,
    ) -> None:
        def note(step: int, loss: float) -> None:
            after(step)
            self.history.append((step, part, loss))
            self._progress(len(self.history), self.total)

        run_steps(steps, losses, batches, optimizer, note)

    def _turn_dial(self, steps: int, batches: Iterator[Batch]) -> None:
        """Train on the task while the strength of the coupling rises, and the blocks of each phase come together."""
        several = [run for run in self._runs if len(run) > 1]
        optimizer = self._optimizer([self._twin.model])
        with couple(optimizer, several, 0.0) as handle:

            def after(step: int) -> None:
                strength = min(1.0, 2 * (step + 1) / steps)
                for run in several if handle.strength < 1 else ():
                    approach_(run, (1 - strength) / (1 - handle.strength))
                handle.strength = strength

            self._steps("task", steps, self._task, batches, optimizer, after)

    def _teach(self, batch: Batch) -> Iterator[Tensor]:
        return self._imitate(batch, free=False)

    def _release(self, batch: Batch) -> Iterator[Tensor]:
        return self._imitate(batch, free=True)

    def _imitate(self, batch: Batch, free: bool) -> Iterator[Tensor]:
        """Yield each stage's part of the mean of the errors over all places."""
        stages = follow(self._staged, self._twin, batch.inputs)
        places = sum(len(stage.entering) for stage in stages)
        for stage in stages:
            yield block_errors(stage, free, batch.named).sum() / places

    def _task(self, batch: Batch) -> Iterator[Tensor]:
        yield task_loss(self._staged, self._twin.model, batch)

    def _optimizer(self, modules: Sequence[nn.Module]) -> torch.optim.Optimizer:
        parameters = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
        return self._make(list(parameters))
