"""When may an example stop? The frontiers behind docs/exits.md.

pip install 'iterconv[repro,zoo]'
ITERCONV_DATA=... python experiments/exits.py [mnist] [resnet56] [--results results/exits] [--examples 1000]

Networks whose weights or images are not at hand are told and left out.
"""

import argparse
import json
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

import iterconv as ic
from iterconv.studies.tables import machine
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import OpenedModel, open_model

ROOT = Path(__file__).parents[1]
SIZE = 50
"""The images of a batch; every other batch chooses the thresholds."""


def mnist() -> OpenedModel:
    """A network of 16 blocks, trained on MNIST for 10 epochs without coupling, from results/desk."""
    [run] = (ROOT / "results" / "desk").glob("mnist-ordinary-s1-b16-w8-rec-c0-seed0-*")
    return open_model(str(run), ModelOptions(batch_size=SIZE))


def resnet56() -> OpenedModel:
    """ResNet-56, trained on CIFAR-10 by others."""
    weights = Path(os.environ["ITERCONV_DATA"]) / "pretrained" / "resnet56-cifar10.safetensors"
    return open_model(f"cifar-resnet:{weights}", ModelOptions(data="cifar10", batch_size=SIZE))


SUBJECTS = {"mnist": mnist, "resnet56": resnet56}


def main() -> None:
    """Measure the frontier of each subject, write its table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "exits")
    parser.add_argument("--examples", type=int, default=1000)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    place = options.results / "facts.json"
    facts: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {}
    facts |= {"machine": machine()}
    for name in options.subjects:
        try:
            opened = SUBJECTS[name]()
        except (ic.InputError, KeyError, ValueError) as problem:
            print(f"{name} is left out: {problem}")
            continue
        started = time.process_time()
        found = ic.exits(opened.model, islice(opened.batches, options.examples // SIZE))
        facts[name] = {"cpu seconds": round(time.process_time() - started, 1), "examples": options.examples}
        found.frontier.to_csv(options.results / f"{name}.csv", index=False, float_format="%.10g")
        found.plot(options.results / f"{name}.png")
        print(name, found.frontier.to_string(index=False, float_format="{:.4g}".format), sep="\n")
        place.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
