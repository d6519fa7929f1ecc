"""When may an example stop? The frontiers behind docs/exits.md.

pip install 'iterconv[repro,zoo]'
python experiments/exits.py [mnist] [resnet56] [--results results/exits] [--examples 1000]

Networks whose weights or images are not at hand are told and left out.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import iterconv as ic
from iterconv.studies.tables import machine
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import OpenedModel, open_model

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


def mnist(examples: int) -> OpenedModel:
    """A network of 16 blocks, trained on MNIST without coupling, from results/desk."""
    [run] = (ROOT / "results" / "desk").glob("mnist-ordinary-s1-b16-w8-rec-c0-seed0-*")
    return open_model(str(run), ModelOptions(batch_size=50, examples=examples))


def resnet56(examples: int) -> OpenedModel:
    """ResNet-56, trained on CIFAR-10 by others."""
    weights = SHARED / "pretrained" / "resnet56-cifar10.safetensors"
    return open_model(
        f"cifar-resnet:{weights}", ModelOptions(data=str(SHARED / "cifar10"), batch_size=50, examples=examples)
    )


SUBJECTS = {"mnist": mnist, "resnet56": resnet56}


def main() -> None:
    """Measure the frontier of each subject, write its table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "exits")
    parser.add_argument("--examples", type=int, default=1000)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"machine": machine(), "examples": options.examples}
    for name in options.subjects:
        try:
            opened = SUBJECTS[name](options.examples)
        except (ic.InputError, KeyError, ValueError) as problem:
            print(f"{name} is left out: {problem}")
            continue
        started = time.process_time()
        found = ic.exits(opened.model, opened.batches)
        facts[name] = {"cpu seconds": round(time.process_time() - started, 1)}
        found.frontier.to_csv(options.results / f"{name}.csv", index=False, float_format="%.5g")
        found.plot(options.results / f"{name}.png")
        print(name, found.frontier.to_string(index=False, float_format="{:.4g}".format), sep="\n")
    (options.results / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
