"""Who settles on prefix sums? The tables behind docs/when-iteration-helps.md.

    pip install 'iterconv[repro]'
    iterconv reproduce prefix --scale quick --out runs/prefix-quick
    python experiments/prefix_sums.py runs/prefix-quick [--out results/prefix/quick-settling.csv]

Applies ``iterconv.settle`` to the nets of a folder whose weights are there, and adds one row for each to --out,
which spares running them again. Then it prints accuracies, indices and verdicts by condition, and how these go with the
accuracy on strings of twice the length.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from scipy import stats

import iterconv as ic
from iterconv.claims.about_prefix import RIGHT, at_the_end
from iterconv.files import read_tensors
from iterconv.models.prefix import draw_strings
from iterconv.settling.trajectory import VERDICTS
from iterconv.studies.extrapolation import ALWAYS, SEED
from iterconv.studies.prefix_runs import WEIGHTS, PrefixRun, find_prefix_runs
from iterconv.studies.runs import load
from iterconv.studies.tables import Tables
from iterconv.tasks import BitStrings
from iterconv.training.prefix import make_prefix_network

INDICES = ["convergence", "recurrence", "divergence"]
CONDITION = ["lacks", "init", "coupling"]
COLUMNS = [*INDICES, *VERDICTS, "converges", "right_of_settled", "growth", "residual"]


def settle_net(run: PrefixRun, root: Path) -> dict[str, object]:
    """Apply the last block of a net to the end of the study's test, on the longest strings that every net is tested on.

    Choice: the strings are those of the test, so that these verdicts are about the states behind its accuracies.
    """
    network = make_prefix_network(run.config)
    network.load_state_dict(read_tensors(run.path(root, WEIGHTS)))
    length = max(length for length in run.config.lengths if length <= ALWAYS)
    strings = draw_strings(run.config.strings, length, torch.Generator().manual_seed(SEED + length))
    steps = run.config.iterations - run.config.blocks
    found = ic.settle(network.eval(), [strings], task=BitStrings(), steps=steps)
    shares = {verdict: (found.examples.verdict == verdict).mean() for verdict in VERDICTS}
    rest = found.examples[found.examples.verdict == "settles"]
    return {
        "name": run.name,
        "length": length,
        "steps": steps,
        **shares,
        "converges": found.examples.converges.mean(),
        "right": found.examples.right.mean(),
        "right_of_settled": rest.right.mean(),
        "settling_step": rest.settling_step.astype(float).median(),
        "residual": found.steps.residual.iloc[-1],
        "growth": found.steps.growth.iloc[-1],
        "exponent": found.examples.exponent.median(),
    }


def interval(values: pd.Series) -> str:
    """Write the mean in percent with its Student interval at 95%, cut at 0 and 100."""
    values = 100 * values.astype(float)
    mean, n = values.mean(), len(values)
    if n < 2 or values.std() == 0:
        return f"{mean:.0f}"
    low, high = stats.t.interval(0.95, n - 1, mean, values.sem())
    return f"{mean:.0f} [{max(low, 0):.0f}, {min(high, 100):.0f}]"


def show_accuracies(tables: Tables) -> None:
    """Print accuracies by kind, rule, condition and length: after the last iteration, and after the best one.

    The best read-out of each net and length is chosen by the answers, so that it is an upper bound.
    """
    best = tables.prefix.groupby([*CONDITION, "name", "beyond", "length"])["accuracy"].max().reset_index()
    for what, found in (("at the end", at_the_end(tables)), ("at the best read-out", best)):
        for (lacks, beyond), rows in found.groupby(["lacks", "beyond"]):
            print(f"\nnets that lack {lacks}, iterating {beyond}: percent of strings right {what}")
            table = rows.pivot_table(index=["init", "coupling"], columns="length", values="accuracy", aggfunc=interval)
            table.insert(0, "n", rows.groupby(["init", "coupling"])["name"].nunique())
            print(table.to_string())


def show_settling(nets: pd.DataFrame) -> None:
    """Print indices and verdicts by condition, and of nets that carry their task to twice its length or do not."""
    print("\nmeans by condition")
    print(nets.groupby(CONDITION)[COLUMNS].mean().round(3).to_string())
    twice = f"at {sorted(int(name.removeprefix('at ')) for name in nets if name.startswith('at '))[1]}"
    for what, own in (("all nets", nets), ("nets of the full recipe", nets[nets["lacks"] == "nothing"])):
        groups = pd.cut(own[twice], [-0.01, 0.5, RIGHT, 1.0], labels=["at most half", "more", "19 of 20"])
        table = own.groupby(groups, observed=True)[COLUMNS].median().T.round(4)
        for column in COLUMNS:
            known = own[[column, twice]].dropna()
            if known[column].nunique() > 1 and column != "right_of_settled":  # that one is an accuracy itself
                table.loc[column, "rank correlation"] = round(stats.spearmanr(known[column], known[twice]).statistic, 2)
        print(f"\n{what}: medians by the share that is right {twice} bits, {groups.value_counts().to_dict()}")
        print(table.to_string())


def main() -> None:
    """Run the nets that the table lacks, and print what the page says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/prefix/quick-settling.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame({"name": []})
    runs = [run for run in find_prefix_runs(options.folder) if run.finished(options.folder)]
    rows = [
        settle_net(run, options.folder)
        for run in runs
        if run.name not in set(known["name"]) and run.path(options.folder, WEIGHTS).is_file()
    ]
    found = pd.concat([known, pd.DataFrame(rows)]).sort_values("name") if rows else known
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out, index=False, float_format="%.5g")
    tables = load(options.folder)
    show_accuracies(tables)
    ends = at_the_end(tables, beyond="last").pivot_table(index="name", columns="length", values="accuracy")
    nets = tables.prefix_nets.merge(found, on="name").merge(ends.add_prefix("at "), on="name")
    show_settling(nets)


if __name__ == "__main__":
    main()
