"""``exchange_rate``: what one more application of a tied block is worth in untied blocks, that is, in parameters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iterconv.errors import InputError, require
from iterconv.measuring.bootstrap import check_bootstrap, interval

COLUMNS = ("tied", "blocks", "parameters", "seed", "error")

Curve = NDArray[np.float64]
"""One value for each number of blocks, or of applications, in rising order."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """The result of ``iterconv.tying.exchange_rate``."""

    table: pd.DataFrame
    """One row for each number of ``applications`` of the tied block. ``error``: its mean. ``worth``: the number of
    untied blocks with the same error, with the interval ``low`` to ``high``. ``gain``: what this application adds to
    the worth of the row before. ``parameters``: those of the untied network. The intervals of these two are in columns
    whose names go on with _low and _high. ``outside``: the share of resamples in which the error is beyond those of the
    untied networks, so that the worth is one of their ends."""
    untied: pd.DataFrame
    """One row for each number of untied ``blocks``: ``parameters``, the mean ``error``, and ``fitted``, the nearest
    curve that never rises."""
    exponent: tuple[float, float, float]
    """The exponent f of worth = applications ^ f, with its interval: 1 if each application is worth a block of its own,
    0 if it is worth nothing."""
    options: dict[str, Any]
    """The circumstances: seeds (their number), resamples, confidence, seed."""


def exchange_rate(runs: pd.DataFrame, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Exchange:
    """Tell how many untied blocks a tied block is worth by the number of its applications.

    The errors of untied networks are averaged over seeds, and made a curve that never rises with their number of blocks
    (isotonic regression). Between two numbers of blocks it is linear. The worth of a tied network is the smallest
    number of untied blocks at which this curve comes down to the tied network's mean error.

    Source: the exponent is that of iso-depth scaling laws (arXiv 2604.21106), fitted to errors at equal depth here, and
    not to losses at equal compute. Choice: it is the least-squares slope, through the origin, of log(worth) over
    log(applications). Seeds are resampled together for all networks, as networks of one seed see the same data.

    Args:
        runs: One row for each trained network: ``tied`` (True if all its blocks are one), ``blocks`` (executed ones),
            ``parameters``, ``seed``, and ``error`` or another loss, which is lower for a better network. All seeds
            have the same networks. A network of one block is both tied and untied, and may stand there once.
        resamples: The number of bootstrap resamples of seeds.
        confidence: The confidence of the intervals.
        seed: The seed of the bootstrap.

    Returns:
        The worth of each number of applications, and the exponent.

    Raises:
        InputError: If a column is missing, networks are missing or there twice, or an option is out of range.
    """
    resamples, confidence, seed = check_bootstrap(resamples, confidence, seed)
    tied, untied = (_arrange(runs, kind) for kind in (True, False))
    if list(tied.columns) != list(untied.columns):
        raise InputError("tied and untied networks have different seeds; train each network with every seed")
    parameters = runs[~runs["tied"].astype(bool)].groupby("blocks")["parameters"].mean()
    count = tied.shape[1]
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    rows = np.concatenate([np.arange(count)[None], drawn])  # the estimate itself comes first
    applications, blocks = tied.index.to_numpy(float), untied.index.to_numpy(float)
    curves = [monotone(own) for own in untied.to_numpy()[:, rows].mean(2).T]
    errors = tied.to_numpy()[:, rows].mean(2).T
    pairs = list(zip(curves, errors, strict=True))
    worth = np.stack([worth_of(blocks, curve, own) for curve, own in pairs])
    outside = np.stack([(own > curve[0]) | (own < curve[-1]) for curve, own in pairs])
    sizes = np.interp(worth, blocks, parameters.to_numpy(float))
    steps = np.diff(worth, axis=1, prepend=np.nan)
    table = pd.DataFrame({"applications": tied.index, "error": errors[0]})
    for name, values in (("worth", worth), ("gain", steps), ("parameters", sizes)):
        table[name] = values[0]
        prefix = "" if name == "worth" else f"{name}_"
        table[[f"{prefix}low", f"{prefix}high"]] = [interval(column, confidence) for column in values.T]
    table["outside"] = outside[1:].mean(0) if resamples else np.nan
    slopes = _exponents(applications, worth)
    shown = pd.DataFrame({"blocks": untied.index, "parameters": parameters.to_numpy(), "error": untied.mean(axis=1)})
    options = {"seeds": count, "resamples": resamples, "confidence": confidence, "seed": seed}
    exponent = (float(slopes[0]), *interval(slopes, confidence))
    return Exchange(table, shown.reset_index(drop=True).assign(fitted=curves[0]), exponent, options)


def _arrange(runs: pd.DataFrame, tied: bool) -> pd.DataFrame:
    """Arrange the errors of one kind of network by blocks (rows) and seeds (columns)."""
    if missing := [name for name in COLUMNS if name not in runs]:
        raise InputError(f"the table of runs has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    kind = "tied" if tied else "untied"
    own = runs[runs["tied"].astype(bool) == tied]
    if tied and not (own["blocks"] == 1).any():  # a single block is tied to itself
        own = pd.concat([runs[(runs["blocks"] == 1) & ~runs["tied"].astype(bool)], own])
    if own.duplicated(["blocks", "seed"]).any():
        raise InputError(f"some {kind} networks of equal blocks and seed are there twice; pass one of each")
    table = own.pivot(index="blocks", columns="seed", values="error").sort_index()
    if len(table) < 2 or table.isna().to_numpy().any():
        raise InputError(f"{kind} networks are missing; pass two numbers of blocks or more, each with every seed")
    return table


def monotone(errors: Curve) -> Curve:
    """Return the nearest curve, by least squares, that never rises."""
    optimize = require("scipy.optimize", "an exchange rate")
    return np.asarray(optimize.isotonic_regression(errors, increasing=False).x)


def worth_of(blocks: Curve, curve: Curve, errors: Curve) -> Curve:
    """Find the smallest numbers of blocks at which a curve that never rises comes down to given errors.

    Args:
        blocks: The numbers of blocks, rising.
        curve: The errors there, never rising; between them, the curve is linear.
        errors: The errors that are looked for.

    Returns:
        The numbers of blocks, not whole ones; those of an end for errors beyond it.
    """
    # Of equal errors, the first one is kept: it is reached with the fewest blocks.
    first = np.flatnonzero(np.diff(curve, prepend=np.inf) < 0)
    return np.interp(-errors, -curve[first], blocks[first])


def _exponents(applications: Curve, worth: Curve) -> Curve:
    """Fit the exponent to each row of worths."""
    logs = np.log(applications / applications[0])
    return np.asarray(np.log(worth / worth[:, :1]) @ logs / (logs @ logs))
