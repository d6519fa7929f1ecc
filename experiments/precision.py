"""What training in bfloat16 changes: errors and indices with and without it, from the table of a sweep.

Run ``iterconv sweep experiments/precision.yaml --out runs/precision``, then
``python experiments/precision.py runs/precision/precision.csv``.
"""

import sys

import numpy as np
import pandas as pd

COLUMNS = ("test_error", "convergence", "recurrence", "divergence")
RESAMPLES = 10_000


def paired(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a seed with a value for each precision, of those seeds that have both."""
    return (
        table.assign(precision=table.precision.fillna("float32"))
        .pivot(index="seed", columns="precision", values=column)
        .dropna()
    )


def interval(differences: np.ndarray) -> tuple[float, float]:
    """The bootstrap interval of the mean difference over seeds, with a confidence of 95%."""
    generator = np.random.default_rng(0)
    means = generator.choice(differences, (RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main(path: str) -> None:
    """Print the table in Markdown."""
    table = pd.read_csv(path)
    print("| data | measure | float32 | bf16 | difference (95% interval over seeds) | seeds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for data, own in table.groupby("data"):
        for column in COLUMNS:
            pairs = paired(own, column)
            low, high = interval((pairs.bf16 - pairs.float32).to_numpy())
            cells = [f"{pairs[name].mean():.4f} ± {pairs[name].std():.4f}" for name in ("float32", "bf16")]
            difference = f"{(pairs.bf16 - pairs.float32).mean():+.4f} ({low:+.4f} to {high:+.4f})"
            print(f"| {' | '.join([str(data), column, *cells, difference, str(len(pairs))])} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
