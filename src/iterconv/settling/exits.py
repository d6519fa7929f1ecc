"""``exits``: error against executed blocks when each example stops as soon as an exit rule lets it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iterconv.adapters.staged import as_staged
from iterconv.errors import InputError, OptionError, check_choice
from iterconv.measuring.bootstrap import check_bootstrap, interval, resampled_means
from iterconv.measuring.compare import Batch, Judge, read_batches
from iterconv.models.exiting import ReadOut, never, passes, score
from iterconv.options import Against, ExitRule
from iterconv.paths import Route, evaluate, full_route, untouched
from iterconv.settling.exit_frontier import Exits
from iterconv.tasks import Classes, Task

RULES: tuple[ExitRule, ...] = ("confidence", "agreement", "kl", "residual")

CANDIDATES = 24
"""The number of thresholds of a rule that are tried."""

_Arrays = dict[str, NDArray[np.float64]]
"""Values of shape (read-outs, examples): the ``error``, and the scores by rule."""


def exits(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    rules: Sequence[ExitRule] = RULES,
    against: Against = "labels",
    task: Task | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> Exits:
    """Measure what is lost when each example stops as soon as its read-out passes an exit rule.

    The model is read out after each block of its last stage, as ``iterconv.depth`` does. Thresholds are chosen on the
    even-numbered batches, and errors and blocks reported on the odd-numbered ones.

    Choice: examples stop in the last stage only, since a read-out before it would leave out whole stages. Candidates
    for thresholds are quantiles of a rule's scores, rounded to three digits; of them, those stay that no other
    candidate of the rule beats in both error and blocks on the first half. Blocks are counted, and the head is not,
    which all rules but residual run after each block. An example is a row, so tasks with several rows an example
    (tokens, pixels) are refused.

    Args:
        model: A model as for ``iterconv.measure``; it is left as it was.
        batches: Two or more batches as for ``iterconv.measure``, with class numbers as labels.
        rules: The rules: ``"confidence"`` (the largest probability is above a threshold), ``"agreement"`` (so many
            successive read-outs predict the same class), ``"kl"`` (the divergence between successive read-outs, in
            nats, is below a threshold), ``"residual"`` (the step of the state, relative to its norm, is below one).
            The rule ``"depth"``, the same number of blocks for all, is added as their baseline.
        against: The reference of errors, as for ``iterconv.measure``.
        task: The meaning of outputs and targets, as for ``iterconv.measure``.
        resamples: The number of bootstrap resamples of examples, which are the same for blocks and errors.
        confidence: The confidence of the intervals.
        seed: The seed of the bootstrap.
        progress: A function that is called after each batch with the number of examples so far and None.

    Returns:
        The frontier, from which models that exit by themselves are made.

    Raises:
        InputError: If an option is out of range, if there are fewer than two batches, if the last stage has a single
            block, if a rule does not fit the model, or as for ``iterconv.measure``.
    """
    wanted = check_rules(rules)
    check_choice("against", against, Against)
    resamples, confidence, seed = check_bootstrap(resamples, confidence, seed)
    batches = _two_at_least(batches)
    staged, batches = as_staged(model, batches, task)
    full = full_route(staged.stages)
    if len(full[-1]) < 2:
        raise InputError("the last stage has a single block, so that nothing can exit before it; use a deeper model")
    halves: tuple[list[_Arrays], list[_Arrays]] = ([], [])
    done = 0
    with untouched(staged):
        for batch in read_batches(staged, batches, task, against):
            with untouched(staged):  # each batch meets the model in the state in which it was given
                found = _read(staged, batch, against, full, wanted)
            halves[batch.number % 2].append(found)
            done += found["error"].shape[1]
            if progress:
                progress(done, None)
    search, report = (
        {name: np.concatenate([part[name] for part in half], axis=1) for name in half[0]} for half in halves
    )
    blocks = sum(map(len, full))
    tables = []
    for rule in wanted:
        thresholds = _choose(rule, search, blocks)
        tables.append(_report(rule, thresholds, search, report, blocks, (resamples, confidence, seed)))
    options = {"rules": wanted, "blocks": blocks, "read_outs": len(full[-1]), "against": against}
    options |= {"resamples": resamples, "confidence": confidence, "seed": seed}
    return Exits(staged, pd.concat(tables, ignore_index=True), options)


def check_rules(rules: Any) -> list[ExitRule]:
    """Return the rules with their baseline; raises ``InputError`` for others than there are."""
    if isinstance(rules, str) or not isinstance(rules, Iterable) or not (listed := list(rules)):
        raise OptionError("rules", rules, f"is no list of rules; use some of {', '.join(RULES)}")
    for rule in listed:
        check_choice("rules", rule, ExitRule)
    return list(dict.fromkeys([*listed, "depth"]))


def _two_at_least(batches: Any) -> Iterable[Any]:
    """Return the batches; raises ``InputError`` if they are fewer than two. What is no iterable is refused later."""
    if isinstance(batches, (Tensor, str, dict)) or not isinstance(batches, Iterable):
        return batches
    iterator = iter(batches)
    first = list(islice(iterator, 2))
    if len(first) < 2:
        raise InputError(
            f"{len(first)} batch(es) can't be halved, to choose thresholds on one half and report on the other; use a "
            "smaller batch size"
        )
    return chain(first, iterator)


def _read(model: Any, batch: Batch, against: Against, full: Route, rules: Sequence[ExitRule]) -> _Arrays:
    """Read a batch out after each block of the last stage: the errors, and the scores of each rule."""
    if type(batch.task) is not Classes:
        raise InputError(
            f"exit rules need one class an example, and the task is {type(batch.task).__name__}; measure a classifier"
        )
    judge = Judge(model, batch, against)
    read_outs, errors = [], []
    for outputs, z in _deepest_first(model, judge, full, batch.inputs):
        state = judge.states(z) if "residual" in rules else None
        if "residual" in rules and state is None:
            raise InputError("representations have no row for each example; leave the rule 'residual' out")
        read_outs.append(ReadOut(outputs, state))
        errors.append(judge.metrics(outputs)["error"]())
    found: dict[str, Any] = {rule: _score_all(rule, read_outs[::-1], sum(map(len, full[:-1]))) for rule in rules}
    return {"error": _to_array(errors[::-1]), **found}


def _deepest_first(model: Any, judge: Judge, full: Route, inputs: Any) -> Iterator[tuple[Tensor, Any]]:
    """Yield outputs and the last representation after each block of the last stage, the last block first."""
    routes = [(*full[:-1], full[-1][:depth]) for depth in range(len(full[-1]), 0, -1)]
    for number, (route, outcome) in enumerate(evaluate(model, routes, inputs)):
        assert route == routes[number], "shorter routes leave the ordinary pass earlier"
        outputs = judge.rows_of(outcome.output) if number else judge.begin(outcome.output)
        yield outputs, outcome.stage_outputs[-1]


def _score_all(rule: ExitRule, read_outs: Sequence[ReadOut], spent: int) -> NDArray[np.float64]:
    """Score all read-outs of a batch, of which the first is after ``spent`` + 1 blocks."""
    outputs = read_outs[0].outputs
    assert outputs is not None
    before, found = None, [torch.zeros(len(outputs), device=outputs.device)]
    for place, now in enumerate(read_outs):
        found.append(score(rule, before, now, found[-1], spent + place + 1))
        before = now
    return _to_array(found[1:])


def _to_array(rows: Sequence[Tensor]) -> NDArray[np.float64]:
    return np.stack([row.cpu().double().numpy() for row in rows])


def _choose(rule: ExitRule, found: _Arrays, blocks: int) -> list[float]:
    """Choose the thresholds of a rule that are worth reporting, and last the one at which nothing exits."""
    read_outs = len(found["error"])
    last = never(rule, read_outs, blocks)
    if rule == "depth":  # a fixed depth is no choice, so all are reported
        return [float(depth) for depth in range(blocks - read_outs + 1, blocks + 1)]
    kept: list[float] = []
    lowest = np.inf
    candidates = [(*_mean(rule, threshold, found, blocks), threshold) for threshold in _candidates(rule, found[rule])]
    for executed, error, threshold in sorted(candidates):
        if error < lowest and executed < blocks:
            kept.append(threshold)
            lowest = error
    return [*kept, last]


def _candidates(rule: ExitRule, scores: NDArray[np.float64]) -> list[float]:
    early = scores[:-1]  # nothing exits early at the last read-out
    if rule == "agreement":
        return [float(count) for count in range(2, len(scores))]
    finite = early[np.isfinite(early)]
    if not len(finite):
        return []
    # Most confidences are close to 1, where digits count from there.
    near = 1 - finite if rule == "confidence" else finite
    points = np.quantile(near, (np.arange(CANDIDATES) + 0.5) / CANDIDATES)
    rounded = {float(f"{point:.2e}") for point in points if point > 0}
    return [1 - point if rule == "confidence" else point for point in rounded]


def stop(rule: ExitRule, threshold: float, scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the read-out, from 0, at which each example stops, given scores of shape (read-outs, examples)."""
    done = passes(rule, scores, threshold)
    done[-1] = True
    return np.asarray(done.argmax(0))


def _outcome(rule: ExitRule, threshold: float, found: _Arrays, blocks: int) -> NDArray[np.float64]:
    """Return the executed blocks and the error of each example, in two rows."""
    errors = found["error"]
    places = stop(rule, threshold, found[rule])
    return np.stack([places + 1.0 + blocks - len(errors), errors[places, np.arange(errors.shape[1])]])


def _mean(rule: ExitRule, threshold: float, found: _Arrays, blocks: int) -> tuple[float, float]:
    executed, error = _outcome(rule, threshold, found, blocks).mean(1)
    return float(executed), float(error)


def _report(
    rule: ExitRule,
    thresholds: Sequence[float],
    search: _Arrays,
    report: _Arrays,
    blocks: int,
    bootstrap: tuple[int, float, int],
) -> pd.DataFrame:
    """Make the rows of a rule; all rows, and both coordinates of each, see the same resamples."""
    resamples, confidence, seed = bootstrap
    both = np.concatenate([_outcome(rule, threshold, report, blocks) for threshold in thresholds])
    means = resampled_means(both, resamples, seed)
    rows = []
    for place, threshold in enumerate(thresholds):
        executed, error = means[2 * place], means[2 * place + 1]
        blocks_low, blocks_high = interval(executed, confidence)
        low, high = interval(error, confidence)
        rows.append(
            {
                "rule": rule,
                "threshold": threshold,
                "blocks": float(executed[0]),
                "blocks_low": blocks_low,
                "blocks_high": blocks_high,
                "search_error": _mean(rule, threshold, search, blocks)[1],
                "error": float(error[0]),
                "low": low,
                "high": high,
                "n": both.shape[1],
            }
        )
    return pd.DataFrame(rows)
