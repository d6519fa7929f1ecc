"""``measure``: perturb each stage of a model, and report its curves and indices with intervals."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from iterconv import paths
from iterconv.adapters.staged import as_staged
from iterconv.errors import OptionError, check_choice, check_count, check_memory, check_range, rename_options
from iterconv.indices import INDICES, Index, undefined_reason
from iterconv.indices import families as families_of_indices
from iterconv.measuring.bootstrap import check_bootstrap, interval, resampled_means
from iterconv.measuring.compare import OUTPUT, Comparison, compare
from iterconv.measuring.faster import Way
from iterconv.measuring.report import Report
from iterconv.measuring.shared_blocks import find_shared
from iterconv.options import Against, MeasuringPrecision, MemoryFormat
from iterconv.paths.contract import Bindable
from iterconv.tasks import Task
from iterconv.tasks.base import METRICS

Values = dict[tuple[int, paths.Path, str], NDArray[np.float64]]
"""The values of all examples, by (stage, path, metric)."""


@rename_options(reference="against", further="families", least_margin="min_margin", replicates="resamples")
def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    against: Against = "labels",
    task: Task | None = None,
    precision: MeasuringPrecision = "weights",
    memory_format: MemoryFormat = "given",
    extra_evaluations: int = 16,
    families: Sequence[str] = (),
    chance: float | None = None,
    min_margin: float = 0.05,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> Report:
    """Measure how iterative and how convergent a model is.

    Each stage in turn is read out early, loses one block, and has its last block evaluated again, while the
    rest of the network stays intact. The model is evaluated in evaluation mode and left exactly as it was.

    Source: Lippl et al., Sec. 3.3 (the indices) and App. B (predictions, cross-entropy, distance).

    Args:
        model: A model that satisfies the contract of ``iterconv.StagedModel``, with outputs (n, classes); any other
            module is adapted as ``iterconv.adapt`` does by default.
        batches: The (inputs, targets) pairs; inputs are a tensor, a tuple of arguments or a dictionary of keywords;
            targets are class numbers (n,) or rows of 0/1 labels (n, classes). A dictionary by itself has its targets
            under ``labels``; for a causal language model they are its next tokens. Against predictions, batches may
            be inputs alone. A pair is always read as inputs and targets, so pass inputs of two arguments as
            ((a, b), None).
        against: The reference of errors and cross-entropies: the ``"labels"``, or the unperturbed model's own
            ``"predictions"``.
        task: The meaning of outputs and targets, as ``iterconv.tasks.Pixels()``; by default next tokens for causal
            language models, else classes or label sets, which the targets distinguish.
        precision: The numbers in which the model computes: those of its ``"weights"``, or ``"bf16"``, in which weights
            in single precision are multiplied in bfloat16 (torch's autocast). That is faster on processors and GPUs
            that have it, and changes errors and indices by its rounding; the report's options tell it. Metrics are
            computed from the outputs in single precision.
        memory_format: The order of images in memory: as ``"given"``, or ``"channels_last"``, in which processors
            convolve faster. Images and weights are copied into it, and the weights are put back; results differ by
            rounding.
        extra_evaluations: The largest number of extra evaluations of the last block; at least 1.
        families: The names of families of paths besides those that the indices read, as in ``iterconv.paths.FAMILIES``:
            ``"repetition"``, ``"sub-steps"``, ``"scaled repetition"``, ``"swap"``, ``"reversal"``, ``"shuffle"``,
            ``"pair drop-out"``, ``"run drop-out"``, and the families that you have registered
            (``iterconv.paths.register``).
        chance: The error of guessing, in (0, 1]; computed from the outputs and labels by default.
        min_margin: The margin by which an index's reference error has to be below chance; else the index is undefined.
        resamples: The number of bootstrap resamples of the examples; 0 for no intervals.
        confidence: The confidence of the intervals, in (0, 1).
        seed: The seed of the bootstrap.
        progress: A function that is called after each batch with the number of rows measured so far, and with None for
            the total, which is not known for batches that come one by one.

    Returns:
        The report: curves, indices, and the options that led to them.

    Raises:
        InputError: If an argument is out of range, if the model does not satisfy the contract, or if the batches are
            empty, not finite or don't fit the model's outputs.
    """
    check_choice("against", against, Against)
    check_choice("precision", precision, MeasuringPrecision)
    check_choice("memory_format", memory_format, MemoryFormat)
    if chance is not None:
        chance = check_range("chance", chance, "(0, 1]", "it is the error of guessing, as 0.9 for ten classes")
    min_margin = check_range("min_margin", min_margin, "[0, 1)", "the default is 0.05")
    resamples, confidence, seed = check_bootstrap(resamples, confidence, seed)
    extra_evaluations = check_extent(extra_evaluations, families)
    staged, batches = as_staged(model, batches, task)
    perturbations = _make_perturbations(staged.stages, extra_evaluations, families, resamples)
    full = paths.full_route(staged.stages)
    routes = _make_routes(full, perturbations)
    # All stages are measured in one walk, since their routes share the beginning of the network.
    way = Way(precision, memory_format)
    compared = compare(staged, batches, routes, task=task, against=against, chance=chance, way=way, progress=progress)
    values, chance, units = _sort_values(compared, full, perturbations), compared.chance, compared.units
    rows = np.stack(list(values.values()))
    means = dict(zip(values, resampled_means(rows, resamples, seed, units), strict=True))
    options = {
        "against": against,
        "chance": chance,
        "min_margin": min_margin,
        "resamples": resamples,
        "confidence": confidence,
        "seed": seed,
        "examples": rows.shape[1],
        "resampled_units": rows.shape[1] if units is None else int(units.max()) + 1,
        "block_applications": paths.block_applications(routes, staged.stages),
        "stages": [str(stage) for stage in staged.stages] if isinstance(staged, Bindable) else [],
        "shared_weights": find_shared(staged.stages),
        **way.told,
    }
    return Report(
        _make_curve_table(perturbations, means, confidence, rows.shape[1]),
        _make_index_table(perturbations, means, chance, min_margin, confidence),
        options,
    )


def check_extent(extra_evaluations: Any, families: Any) -> int:
    """Check the options that say which perturbations are measured.

    Args:
        extra_evaluations: The largest number of extra evaluations of the last block.
        families: The names of further families.

    Returns:
        The number of extra evaluations.

    Raises:
        InputError: If the number is below 1, or a family is unknown.
    """
    known = list(paths.FAMILIES)
    names = families if isinstance(families, (tuple, list)) else [families]
    wrong = [name for name in names if name not in known] or ([] if names is families else names)
    if wrong:
        raise OptionError("families", wrong[0], f"is unknown; use a list of {', '.join(map(repr, known))}")
    return check_count("extra_evaluations", extra_evaluations, why="leaves nothing to repeat")


def _make_perturbations(
    stages: Sequence[Any], extra: int, families: Sequence[str], resamples: int
) -> list[list[paths.Perturbation]]:
    """List the perturbations of each stage; raises ``InputError`` if they or their values would fill the memory."""
    blocks = [len(stage.blocks) for stage in stages]
    # A path with k extra evaluations holds blocks + k numbers of 8 bytes, and there is one for each k.
    check_memory(8 * extra * (extra / 2 + max(blocks)), f"the paths of extra_evaluations={extra}", "use fewer")
    # The one family whose length the user chooses.
    options = {"extra evaluation": {"most": extra}}
    names = dict.fromkeys([*families_of_indices(), *families])
    made = [[p for name in names for p in paths.FAMILIES[name](num, **options.get(name, {}))] for num in blocks]
    kinds = sum(map(len, made)) * len(METRICS)
    check_memory(8 * kinds * (1 + resamples), f"resamples={resamples} of up to {kinds} values", "use fewer")
    return made


def _make_routes(full: paths.Route, perturbations: list[list[paths.Perturbation]]) -> list[paths.Route]:
    """List the ordinary pass first, then every route in which one stage leaves it."""
    perturbed = (
        (*full[:stage], perturbation.path, *full[stage + 1 :])
        for stage, family in enumerate(perturbations)
        for perturbation in family
    )
    return list(dict.fromkeys(chain([full], perturbed)))


def _sort_values(compared: Comparison, full: paths.Route, perturbations: list[list[paths.Perturbation]]) -> Values:
    """Sort the compared values by stage, path and metric."""
    found = {}
    for stage, family in enumerate(perturbations):
        for path in dict.fromkeys(perturbation.path for perturbation in family):
            route = (*full[:stage], path, *full[stage + 1 :])
            for metric in METRICS:
                key = (route, metric, stage if metric == "distance" else OUTPUT)
                if key in compared.columns:
                    found[stage, path, metric] = compared.columns[key]
    return found


def _make_curve_table(
    perturbations: list[list[paths.Perturbation]], means: Values, confidence: float, examples: int
) -> pd.DataFrame:
    rows = []
    for stage, family in enumerate(perturbations):
        for perturbation in family:
            for metric in (m for m in METRICS if (stage, perturbation.path, m) in means):
                estimates = means[stage, perturbation.path, metric]
                low, high = interval(estimates, confidence)
                rows.append(
                    {
                        "stage": stage,
                        "perturbation": perturbation.family,
                        "position": perturbation.position,
                        "path": perturbation.path,
                        "metric": metric,
                        "value": float(estimates[0]),
                        "low": low,
                        "high": high,
                        "n": examples,
                    }
                )
    return pd.DataFrame(rows)


def _make_index_table(
    perturbations: list[list[paths.Perturbation]],
    means: Values,
    chance: float,
    min_margin: float,
    confidence: float,
) -> pd.DataFrame:
    rows = []
    for index in INDICES.values():
        per_stage, reasons = [], []
        for stage, family in enumerate(perturbations):
            curve = _find_curve(index, stage, family, means)
            reason = undefined_reason(index, curve, chance, min_margin, confidence)
            estimates = index(curve, chance)
            rows.append(_make_index_row(stage, index.name, estimates, reason, confidence))
            per_stage.append(estimates)  # the mean over stages is resampled with the same examples
            reasons += [f"stage {stage + 1}: {reason}"] if reason else []
        with np.errstate(invalid="ignore"):  # an undefined index may have infinities of both signs
            mean = np.mean(per_stage, axis=0)
        rows.append(_make_index_row("mean", index.name, mean, "; ".join(reasons), confidence))
    table = pd.DataFrame(rows)
    # Numbers and the word `mean` stand in one column.
    return table.astype({"stage": object})


def _find_curve(index: Index, stage: int, family: list[paths.Perturbation], means: Values) -> NDArray[np.float64]:
    """Find the curve that an index reads; it has no positions if the metric was not measured."""
    keys = [(stage, p.path, index.metric) for p in family if p.family == index.family]
    found = [means[key] for key in keys if key in means]
    return np.stack(found) if found and len(found) == len(keys) else np.empty((0, len(next(iter(means.values())))))


def _make_index_row(
    stage: int | str, name: str, estimates: NDArray[np.float64], reason: str, confidence: float
) -> dict[str, Any]:
    # An undefined index keeps its row, with the reason, so that no stage is missing without notice.
    low, high = interval(estimates, confidence) if not reason else (math.nan, math.nan)
    return {
        "stage": stage,
        "index": name,
        "value": float(estimates[0]) if not reason else math.nan,
        "low": low,
        "high": high,
        "defined": not reason,
        "reason": reason,
    }
