"""What measuring in bfloat16 changes: the indices and errors of trained networks in both precisions.

    python experiments/measuring_in_bf16.py RUN [RUN ...] [--examples 1000] [--results results/measuring-bf16]

RUN is the folder of a finished run. Each network is measured twice on the first test images, once with the products in
float32 and once in bfloat16; the same images are resampled, so that intervals are to be compared with each other.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

import iterconv as ic
from iterconv.studies.tables import machine
from iterconv.training.run import open_run


def measure_twice(path: str, examples: int) -> pd.DataFrame:
    """The error and the mean indices of a run in both precisions, one row each."""
    network, dataset, folder = open_run(Path(path), "cpu")
    batches = dataset.batches(dataset.test[slice(examples)])
    reports = {name: ic.measure(network, batches, precision=name) for name in ("weights", "bf16")}
    rows = []
    for name, report in reports.items():
        indices = report.indices[report.indices.stage == "mean"].assign(precision=name)
        rows += indices[["precision", "index", "value", "low", "high"]].to_dict("records")
        curves = report.curves[(report.curves.perturbation == "extra evaluation") & (report.curves.position == 0)]
        for metric in ("error", "cross_entropy"):
            intact = curves[(curves.metric == metric) & (curves.stage == 0)].iloc[0]
            rows.append({"precision": name, "index": metric, **intact[["value", "low", "high"]]})
    return pd.DataFrame(rows).assign(run=folder.config.name, n=reports["weights"].options["examples"])


def main() -> None:
    """Measure, print the table in Markdown, and write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=Path("results/measuring-bf16"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.concat([measure_twice(run, options.examples) for run in options.runs], ignore_index=True)
    options.results.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.results / "indices.csv", index=False, float_format="%.6g")
    facts = {"command": "python experiments/measuring_in_bf16.py", **machine()}
    (options.results / "facts.json").write_text(pd.Series(facts).to_json(indent=1))
    print("| run | | float32 | bf16 | difference |\n| --- | --- | --- | --- | --- |")
    for (run, index), both in table.groupby(["run", "index"], sort=False):
        exact, bf16 = (both[both.precision == name].iloc[0] for name in ("weights", "bf16"))
        cells = [f"{row.value:.4f} [{row.low:.4f}, {row.high:.4f}]" for row in (exact, bf16)]
        print(f"| {run} | {index} | {' | '.join(cells)} | {bf16.value - exact.value:+.4f} |")


if __name__ == "__main__":
    main()
