"""Does a block settle if only a part of each step is taken, and do sub-steps bear repetition? Behind docs/settling.md.

    ITERCONV_DATA=... python experiments/damping.py [automaton] [mnist] [repetition] [--results results/damping]

``automaton`` is the cellular automaton of Randazzo et al. (2020) with whole steps, which overshoots, and ``mnist`` the
last block of an ordinary network of results/desk; both are swept over parts of a step. ``repetition`` executes each
block of that network, and of a ResNet-56 trained by others, twice: as it is, in two half steps, and scaled by the root
of 1/2.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pandas as pd

import iterconv as ic
from iterconv.models import load_cellular_automaton
from iterconv.studies.tables import machine
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import OpenedModel, open_model

ROOT = Path(__file__).parents[1]
PARTS = (0.25, 0.5, 0.75, 1.0)
FAMILIES = ("repetition", "sub-steps", "scaled repetition")


def weights(name: str) -> Path:
    """A file of networks that others trained."""
    return Path(os.environ["ITERCONV_DATA"]) / "pretrained" / name


def network() -> OpenedModel:
    """A network of 16 blocks, trained on MNIST for 10 epochs without coupling."""
    [run] = (ROOT / "results" / "desk").glob("mnist-ordinary-s1-b16-w8-rec-c0-seed0-*")
    return open_model(str(run), ModelOptions(batch_size=50))


def automaton(results: Path) -> None:
    """Sweep the automaton over parts of its whole steps, from its first step on."""
    test = ic.data.load("mnist").test[:50]
    net = load_cellular_automaton(weights("mnist-ca.safetensors"), steps=1, fire=1.0)
    found = ic.sweep_damping(net, [(test.images.float() / 255, test.targets)], PARTS, steps=200, growth=False)
    keep(found, results / "automaton")


def mnist(results: Path) -> None:
    """Sweep the last block of the ordinary network."""
    opened = network()
    found = ic.sweep_damping(opened.model, list(islice(opened.batches, 2)), PARTS, steps=100)
    keep(found, results / "mnist")


def keep(found: ic.DampingSweep, stem: Path) -> None:
    """Write the table and the picture, and print the table."""
    verdicts = found.verdicts.drop(columns="settles").rename_axis("damping").reset_index()
    table = found.table.merge(verdicts, on="damping")
    table.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.5g")
    found.plot(stem.with_suffix(".png"))
    print(table.to_string(index=False, float_format="{:.4g}".format), flush=True)


def repetition(results: Path) -> None:
    """Execute each block of two networks twice, in three ways."""
    opened = {"mnist": network()}
    options = ModelOptions(data="cifar10", batch_size=50)
    opened["resnet56"] = open_model(f"cifar-resnet:{weights('resnet56-cifar10.safetensors')}", options)
    tables = []
    for name, one in opened.items():
        report = ic.measure(one.model, islice(one.batches, 8), families=FAMILIES, resamples=200)
        own = report.curves[report.curves.perturbation.isin(FAMILIES) & (report.curves.metric == "error")]
        [intact] = (
            report.curves[(report.curves.perturbation == "early read-out") & (report.curves.metric == "error")]
            .groupby("stage")
            .value.last()
            .unique()
        )
        tables.append(own.drop(columns=["path", "metric"]).assign(network=name, intact=intact))
    table = pd.concat(tables)
    table.to_csv(results / "repetition.csv", index=False, float_format="%.5g")
    means = table.pivot_table(index=["network", "stage"], columns="perturbation", values="value")
    print(means.to_string(float_format="{:.4g}".format), flush=True)


SUBJECTS: dict[str, Callable[[Path], None]] = {"automaton": automaton, "mnist": mnist, "repetition": repetition}


def main() -> None:
    """Examine the subjects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "damping")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    place = options.results / "facts.json"
    for name in options.subjects:
        started = time.process_time()
        SUBJECTS[name](options.results)
        facts = json.loads(place.read_text()) if place.exists() else {}
        facts |= {"machine": machine(), name: {"cpu seconds": round(time.process_time() - started, 1)}}
        place.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
