"""Exit rules, which tell when a read-out is good enough, and a model that stops by itself."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iterconv.errors import InputError, check_choice, check_number
from iterconv.options import ExitRule

_PASSES: dict[str, Callable[[Any, Any], Any]] = {
    "confidence": operator.gt,
    "agreement": operator.ge,
    "kl": operator.lt,
    "residual": operator.lt,
    "depth": operator.ge,
}
"""The comparison of a score with the threshold that lets an example exit."""


class ReadOut(NamedTuple):
    """The outputs of the head after some block, and the state that they were made of."""

    outputs: Tensor | None
    """Logits of shape (n, classes); None for rules that do not look at them."""
    state: Tensor | None
    """A representation of shape (n, ...); None for rules that do not look at it."""


def score(
    rule: ExitRule, before: ReadOut | None, now: ReadOut, run: Float[Tensor, " n"], depth: int
) -> Float[Tensor, " n"]:
    """Score a read-out by an exit rule.

    Choice: agreement, divergence and residual compare a read-out with the one before, so that nothing exits at the
    first read-out by them. A score that is not a number lets nothing exit.

    Args:
        rule: ``"confidence"``: the largest probability; ``"agreement"``: the number of successive read-outs, this one
            included, that predict the same class; ``"kl"``: the Kullback-Leibler divergence of this read-out's
            probabilities from those of the one before, in nats; ``"residual"``: the length of the step from the
            state before, relative to that state's norm; ``"depth"``: the number of executed blocks.
        before: The read-out after the block before; None at the first read-out.
        now: The read-out.
        run: The scores of the read-out before, which agreement counts on from; of no meaning at the first one.
        depth: The number of executed blocks.

    Returns:
        One score an example.
    """
    if rule == "depth":
        return torch.full_like(run, depth)
    if rule == "confidence":
        return _log_probabilities(now).exp().amax(1)
    if rule == "agreement":
        same = before is not None and _outputs(now).argmax(1) == _outputs(before).argmax(1)
        return torch.where(torch.as_tensor(same, device=run.device), run + 1, 1)
    if before is None:
        return torch.full_like(run, torch.inf)
    if rule == "kl":
        after, earlier = _log_probabilities(now), _log_probabilities(before)
        # Rounding may leave a divergence of equal distributions just below 0.
        return (after.exp() * (after - earlier)).sum(1).clamp(min=0)
    assert now.state is not None and before.state is not None
    state, earlier = (z.to(torch.promote_types(z.dtype, torch.float32)).flatten(1) for z in (now.state, before.state))
    return (state - earlier).norm(dim=1) / earlier.norm(dim=1)


def passes(rule: ExitRule, scores: Any, threshold: float) -> Any:
    """Tell which scores, a tensor or an array, let an example exit: those beyond the threshold.

    Confidence has to be above it, divergence and residual below it; agreement and depth have to reach it.
    """
    return _PASSES[rule](scores, threshold)


def never(rule: ExitRule, read_outs: int, blocks: int) -> float:
    """Return the threshold at which nothing exits early.

    Args:
        rule: The rule.
        read_outs: The number of read-outs.
        blocks: The number of blocks of the whole model.
    """
    return {"confidence": 1.0, "agreement": read_outs + 1.0, "kl": 0.0, "residual": 0.0, "depth": float(blocks)}[rule]


class ExitingModel(nn.Module):
    """A staged model in which each example stops by itself in the last stage; ``Exits.apply`` makes it.

    After each block of the last stage, the examples that pass the rule get the output of the head and leave the batch,
    so that later blocks are computed for the others only. It is an ordinary module: its weights are those of ``model``.

    Choice: examples stop in the last stage only, since a read-out before it would leave out whole stages. In training
    mode, the ordinary pass is run. Scores are computed on what is left of the batch, and some kernels round differently
    for batches of different sizes, so a score within rounding of the threshold may fall on either side.

    Args:
        model: A model that satisfies the contract, whose representations are tensors with one row an example.
        rule: The exit rule, as for ``iterconv.exits``.
        threshold: The threshold of the rule.

    Raises:
        InputError: If the rule is unknown, or the threshold not a number.
    """

    def __init__(self, model: nn.Module, rule: ExitRule, threshold: float) -> None:
        super().__init__()
        check_choice("rule", rule, ExitRule)
        self.model: Any = model
        self.rule, self.threshold = rule, check_number("threshold", threshold)

    def extra_repr(self) -> str:
        """The rule and its threshold."""
        return f"rule={self.rule!r}, threshold={self.threshold:g}"

    def forward(self, inputs: Any) -> Tensor:
        """Return the outputs, of shape (n, classes), each from the block at which its example stopped."""
        return self.model(inputs) if self.training else self.run(inputs)[0]

    def run(self, inputs: Any) -> tuple[Tensor, Int[Tensor, " n"]]:
        """Run the model in evaluation mode.

        Args:
            inputs: A batch.

        Returns:
            The outputs, and the number of blocks, of all stages, that were executed for each example.

        Raises:
            InputError: If the representation that enters the last stage is not a tensor.
        """
        z, spent = self._enter_last_stage(inputs)
        stage, head = self.model.stages[-1], self.model.head
        count, entered, rows = len(stage.blocks), z, torch.arange(len(z), device=z.device)
        run, before = torch.zeros(len(z), device=z.device), None
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for block in range(count):
            z, depth = stage.step(block, z, entered), spent + block + 1
            now = ReadOut(head(z) if self._reads else None, z)
            run = score(self.rule, before, now, run, depth)
            done: Bool[Tensor, " n"] = passes(self.rule, run, self.threshold) | (block + 1 == count)
            if bool(done.any()):
                outputs = head(z[done]) if now.outputs is None else now.outputs[done]
                found.append((rows[done], outputs, torch.full_like(rows[done], depth)))
                kept = ~done
                rows, run, entered, z = rows[kept], run[kept], entered[kept], z[kept]
                now = ReadOut(None if now.outputs is None else now.outputs[kept], z)
            if not len(rows):
                break
            before = now
        order = torch.cat([part[0] for part in found]).argsort()
        return torch.cat([part[1] for part in found])[order], torch.cat([part[2] for part in found])[order]

    @property
    def _reads(self) -> bool:
        """True if the rule looks at outputs, so that the head is run after each block."""
        return self.rule not in ("residual", "depth")

    def _enter_last_stage(self, inputs: Any) -> tuple[Tensor, int]:
        """Return what enters the last stage, and the number of blocks before it."""
        z, spent = self.model.stem(inputs), 0
        for stage, transition in zip(list(self.model.stages)[:-1], self.model.transitions, strict=True):
            entered = z
            for block in range(len(stage.blocks)):
                z = stage.step(block, z, entered)
            z, spent = transition(z), spent + len(stage.blocks)
        if not isinstance(z, Tensor) or not z.ndim:
            raise InputError(
                f"a {type(z).__name__} enters the last stage, of which no examples can be taken out; exits need tensors"
            )
        return z, spent


def _log_probabilities(read_out: ReadOut) -> Tensor:
    outputs = _outputs(read_out)
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32)).log_softmax(1)


def _outputs(read_out: ReadOut) -> Tensor:
    assert read_out.outputs is not None, "all rules but residual and depth have outputs"
    return read_out.outputs
