"""What is one more application of a tied block worth in untied parameters? The numbers behind docs/tying.md.

    iterconv sweep experiments/exchange.yaml --out runs/exchange --stack 6
    python experiments/exchange.py runs/exchange/exchange.csv [--results results/exchange]

The first command trains networks of 1 to 8 blocks on the UCI digits with 6 seeds, all blocks tied (coupling 1, equal
start) or none. The second finds the number of untied blocks that are as good as so many applications of a tied one.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from iterconv.figures.style import STAGE_COLOURS, new_figure, percent, styled, write
from iterconv.studies.tables import machine
from iterconv.tying import Exchange, exchange_rate

ROOT = Path(__file__).parents[1]
MEASURES = {"test_error": "test error", "test_loss": "cross-entropy (nats)"}


def networks(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The table of a sweep in the columns of ``exchange_rate``."""
    tied = table["coupling"] == 1
    return pd.DataFrame(
        {
            **{"tied": tied, "blocks": table["blocks"], "seed": table["seed"], "error": table[measure]},
            "parameters": table["raw"].where(~tied, table["tied"]),
        }
    )


def draw(found: dict[str, Exchange], runs: pd.DataFrame) -> Figure:
    """Error against applications and against parameters, and the worth of applications, for each measure."""
    blue, red = STAGE_COLOURS[:2]
    with styled():
        figure = new_figure(9.5, 2.9 * len(found))
        for row, (measure, exchange) in zip(figure.subplots(len(found), 3, squeeze=False), found.items(), strict=True):
            for kind, colour in ((True, blue), (False, red)):
                own = networks(runs, measure).query("tied == @kind or blocks == 1").groupby("blocks")
                mean, deviation = own["error"].mean(), own["error"].sem()
                for axes, places in ((row[0], mean.index), (row[1], own["parameters"].mean())):
                    label = "one tied block" if kind else "untied blocks"
                    axes.errorbar(places, mean, deviation, fmt="o-", ms=3, lw=1, color=colour, label=label)
            row[0].set(xlabel="applications, or blocks", ylabel=MEASURES[measure])
            row[1].set(xlabel="parameters", ylim=row[0].get_ylim())
            if measure == "test_error":
                percent(row[0]), percent(row[1])
            row[0].legend()
            table = exchange.table
            arms = [table["worth"] - table["low"], table["high"] - table["worth"]]
            row[2].errorbar(table["applications"], table["worth"], arms, fmt="o-", ms=3, lw=1, color=blue)
            most = int(table["applications"].max())
            row[2].plot([1, most], [1, most], ":", color="#777777", label="as good as untied blocks")
            value, low, high = exchange.exponent
            title = f"exponent {value + 0:.2f} [{low + 0:.2f}, {high + 0:.2f}]"
            row[2].set(xlabel="applications of a tied block", ylabel="worth (untied blocks)", title=title)
            row[2].legend()
    return figure


def main() -> None:
    """Find the exchange rates, print, draw and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "exchange")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    runs = pd.read_csv(options.table)
    kept = ["coupling", "blocks", "seed", "raw", "tied", *MEASURES]
    runs[kept].to_csv(options.results / "runs.csv", index=False, float_format="%.6g")
    found = {measure: exchange_rate(networks(runs, measure)) for measure in MEASURES}
    for measure, exchange in found.items():
        exchange.table.to_csv(options.results / f"{measure}.csv", index=False, float_format="%.5g")
        print(measure, exchange.table.to_string(index=False, float_format="{:.4g}".format), exchange.exponent, sep="\n")
    exponents = {measure: exchange.exponent for measure, exchange in found.items()}
    facts = {"command": "iterconv sweep experiments/exchange.yaml --out runs/exchange --stack 6", **machine()}
    (options.results / "facts.json").write_text(json.dumps({**facts, "exponents": exponents}, indent=1) + "\n")
    write(draw(found, runs), options.results / "exchange.png")


if __name__ == "__main__":
    main()
