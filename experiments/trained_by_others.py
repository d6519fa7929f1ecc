"""How iterative and convergent are networks that others trained? The runs behind docs/trained-by-others.md.

    ITERCONV_DATA=... python experiments/trained_by_others.py [--work runs/pretrained] [--results results/pretrained]

He et al.'s ResNet-20, -32, -44 and -56 for CIFAR-10, with the weights in $ITERCONV_DATA/pretrained, are measured on the
test images in $ITERCONV_DATA/cifar10. Pieces that are finished are not repeated; an interrupted call goes on.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import iterconv as ic
from iterconv.cli.console import bar
from iterconv.figures.curves import finish_panel
from iterconv.figures.style import new_figure, percent, stage_colour, styled, write
from iterconv.files import read_tensors, to_parquet, to_safetensors, write_atomically
from iterconv.indices import INDICES
from iterconv.indices.base import undefined_reason
from iterconv.measuring.bootstrap import interval, resampled_means
from iterconv.measuring.compare import compare
from iterconv.paths import FAMILIES, Perturbation, Route
from iterconv.paths import Path as Blocks
from iterconv.studies.tables import machine
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.open_model import open_model

DEPTHS = (20, 32, 44, 56)
NOTHING: Route = ((), (), ())
"""The route without any block of any stage, which leaves stem, transitions and head."""
AGAINST = {"labels": "error", "predictions": "disagreement"}
"""The metric of errors against each reference."""
RESAMPLES, CONFIDENCE, MARGIN, CHANCE = 4000, 0.95, 0.05, 0.9
BATCH = 25
PIECE = {"paper": 5, "further": 1}
"""The numbers of batches that are run between two pauses."""
IMAGES = {"paper": 1000, "further": 125, "plan": 250}
"""The number of test images, the first ones, for the paper's families, the further ones, and plans, which search on one
half and report on the other."""


class Network:
    """One network with what is measured of it."""

    def __init__(self, depth: int, work: Path) -> None:
        self.depth, self.name, self._work = depth, f"ResNet-{depth}", work
        self.blocks = (depth - 2) // 6
        self.sizes = (self.blocks, self.blocks - 1, self.blocks - 1)
        self.full: Route = tuple(tuple(range(size)) for size in self.sizes)
        self.perturbations = [[p for family in FAMILIES.values() for p in family(size)] for size in self.sizes]
        self.means: dict[tuple[str, Route], NDArray[np.float64]] = {}
        """The error of each route, and that of each resample of the images."""
        self.images: dict[Route, int] = {}

    @cached_property
    def opened(self) -> Any:
        path = Path(os.environ["ITERCONV_DATA"]) / "pretrained" / f"resnet{self.depth}-cifar10.safetensors"
        opened = open_model(f"cifar-resnet:{path}", ModelOptions(data="cifar10", batch_size=BATCH))
        opened.model.to(memory_format=torch.channels_last)  # faster on a CPU
        return opened

    def route(self, stage: int, path: Blocks) -> Route:
        return (*self.full[:stage], path, *self.full[stage + 1 :])

    def routes(self, kind: str) -> list[Route]:
        """The routes of the families that the indices read, with stages left out; or those of all further families."""
        of_indices = [index.family for index in INDICES.values()]
        nothing = [*(self.route(stage, ()) for stage in range(len(self.sizes))), NOTHING]
        own = [self.full, *(self.route(s, p.path) for s, p in self._points() if p.family in of_indices), *nothing]
        further = [self.route(s, p.path) for s, p in self._points() if p.family not in of_indices]
        return list(dict.fromkeys(own if kind == "paper" else [r for r in further if r not in own]))

    def _points(self) -> Iterator[tuple[int, Perturbation]]:
        return ((stage, p) for stage, own in enumerate(self.perturbations) for p in own)

    def evaluate(self, kind: str) -> None:
        """Run routes on every piece that is not there yet."""
        routes, parts = self.routes(kind), []
        pieces = range(IMAGES[kind] // BATCH // (piece := PIECE[kind]))
        with bar(f"{self.name}, {kind}", len(pieces)) as advance:
            for number in pieces:
                kept = self._work / f"{self.name}-{kind}-{number}.safetensors"
                if not kept.exists():
                    batches = [self.opened.batches[number * piece + place] for place in range(piece)]
                    found = compare(self.opened.model, batches, routes, metrics=list(AGAINST.values()))
                    assert np.isclose(found.chance, CHANCE)
                    wrong = {
                        metric: torch.tensor(np.stack([found.of(route, metric) for route in routes])).to(torch.uint8)
                        for metric in AGAINST.values()
                    }
                    write_atomically(kept, to_safetensors(wrong))
                parts.append(read_tensors(kept))
                advance(number + 1)
        for against, metric in AGAINST.items():
            rows = np.concatenate([part[metric].numpy() for part in parts], axis=1).astype(np.float64)
            # One seed, so that all networks and stages see the same resamples.
            means = resampled_means(rows, RESAMPLES, 0)
            self.means |= {(against, route): row for route, row in zip(routes, means, strict=True)}
        self.images |= dict.fromkeys(routes, IMAGES[kind])

    def points(self, against: str) -> Iterator[tuple[int, Perturbation, NDArray[np.float64]]]:
        for stage, p in self._points():
            if self.route(stage, p.path) in self.images:
                yield stage, p, self.means[against, self.route(stage, p.path)]

    def curve(self, against: str, family: str, stage: int) -> NDArray[np.float64]:
        return np.stack([row for s, p, row in self.points(against) if (s, p.family) == (stage, family)])

    def estimates(self, against: str, index: str) -> list[tuple[int | str, NDArray[np.float64], str]]:
        """An index of each stage and the mean: the estimate, its resamples, and the reason where it is undefined."""
        found: list[tuple[int | str, NDArray[np.float64], str]] = []
        for stage in range(len(self.sizes)):
            curve = self.curve(against, INDICES[index].family, stage)
            reason = undefined_reason(INDICES[index], curve, CHANCE, MARGIN, CONFIDENCE)
            found.append((stage, INDICES[index](curve, CHANCE), reason))
        mean = np.mean([values for _, values, _ in found], axis=0)
        return [*found, ("mean", mean, "; ".join(f"stage {s}: {why}" for s, _, why in found if why))]

    def cost_of_dropping(self, against: str) -> NDArray[np.float64]:
        """Claim 3's finding: what dropping a block but the first of a stage costs, of what is above chance."""
        dropped = [row for _, p, row in self.points(against) if p.family == "drop-out" and p.position > 1]
        intact = self.means[against, self.full]
        return (np.mean(dropped, axis=0) - intact) / (CHANCE - intact)

    def plan(self, only_tables: bool) -> pd.DataFrame:
        """Plan in parts, each from the model that the one before left: with a beam of 1, the same routes as in one."""
        batches = list(self.opened.batches)[: IMAGES["plan"] // BATCH]
        model, left, full, parts = self.opened.model, sum(self.sizes), self.full, []
        while left:
            least = left - 3 if left > 14 else 0
            kept = self._work / f"{self.name}-plan-{left}.json"
            if not kept.exists():
                if only_tables:
                    break
                with bar(f"{self.name}, plan from {left} blocks", left - least) as advance:
                    ic.plan(model, batches, budget=least, beam=1, progress=advance).save(kept)
            found = ic.Plan.load(kept, model)
            routes = [tuple(tuple(o[b] for b in p) for o, p in zip(full, r, strict=True)) for r in found.frontier.route]
            parts.append(found.frontier.assign(network=self.name, route=routes))
            model, left, full = found.apply(least) if least else model, least, routes[-1]
        return pd.concat(parts).drop_duplicates("blocks")

    def similarity(self) -> pd.DataFrame:
        batches = list(self.opened.batches)[: IMAGES["further"] // BATCH]
        return ic.similarity(self.opened.model, batches).assign(network=self.name)

    def steps(self) -> pd.DataFrame:
        """The length of what each block adds, relative to its input, as the mean over images."""
        rows = []
        with torch.no_grad():
            for inputs, _ in list(self.opened.batches)[: IMAGES["further"] // BATCH]:
                for stage, block, z, after, _ in ic.paths.block_inputs(self.opened.model, inputs):
                    lengths = (after - z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1)
                    rows.append({"network": self.name, "stage": stage, "block": block, "step": float(lengths.mean())})
        return pd.DataFrame(rows).groupby(["network", "stage", "block"], as_index=False).mean()


def bounded(values: NDArray[np.float64]) -> dict[str, float]:
    low, high = interval(values, CONFIDENCE)
    return {"value": float(values[0]), "low": low, "high": high}


def curve_rows(network: Network) -> Iterator[dict[str, Any]]:
    for against in AGAINST:
        for stage, p, row in network.points(against):
            about = {"network": network.name, "against": against, "stage": stage, "perturbation": p.family}
            n = network.images[network.route(stage, p.path)]
            yield {**about, "position": p.position, "path": " ".join(map(str, p.path)), **bounded(row), "n": n}


def index_rows(network: Network) -> Iterator[dict[str, Any]]:
    for against in AGAINST:
        about = {"network": network.name, "blocks": network.blocks, "against": against}
        intact, none = network.means[against, network.full], network.means[against, NOTHING]
        cost = network.cost_of_dropping(against)
        for name, values in (("error", intact), ("error without any block", none), ("cost of dropping", cost)):
            yield {**about, "stage": "all", "index": name, **bounded(values), "reason": ""}
        for index in INDICES:
            for stage, values, reason in network.estimates(against, index):
                yield {**about, "stage": stage, "index": index, **bounded(values), "reason": reason}


def difference_rows(networks: list[Network]) -> Iterator[dict[str, Any]]:
    """Paired differences, on the same images: between the stages of a network, and between networks."""
    for against in AGAINST:
        for index in INDICES:
            found = {network.name: network.estimates(against, index) for network in networks}
            pairs = [((n, a), (n, b)) for n, own in found.items() for a, b in combinations(own[:-1], 2)]
            for a, b in combinations(found, 2):
                pairs += zip(((a, one) for one in found[a]), ((b, one) for one in found[b]), strict=True)
            for (first, (stage, values, why)), (other, (of, others, whynot)) in pairs:
                apart = others - values
                about = {"index": index, "against": against, "network": other, "stage": of}
                minus = {"minus_network": first, "minus_stage": stage, "share_above_0": float((apart[1:] > 0).mean())}
                if not why and not whynot:
                    yield {**about, **minus, **bounded(apart)}


def draw_curves(curves: pd.DataFrame, indices: pd.DataFrame) -> Figure:
    """As in Fig. 2: a row a network, a column a family of perturbations; below, the indices against the depth."""
    errors = curves[curves["against"] == "labels"]
    found = indices[(indices["against"] == "labels") & (indices["stage"] != "all")]
    with styled():
        figure = new_figure(8.5, 10.5)
        above, below = figure.subfigures(2, 1, height_ratios=(4, 1.1))
        grid = above.subplots(len(DEPTHS), len(INDICES), sharex="col", sharey=True)
        for number, (row, (name, own)) in enumerate(zip(grid, errors.groupby("network"), strict=True)):
            for axes, index in zip(row, INDICES.values(), strict=True):
                for stage, points in own.groupby("stage"):
                    _draw_points(axes, points, index.family, stage)
                finish_panel(axes, index.family, CHANCE)
                axes.label_outer()
                axes.set_title(axes.get_title() if number == 0 else "")
            row[0].set_ylabel(f"{name}\ntest error")
        grid[0][0].legend(loc="upper right")
        for axes, index in zip(below.subplots(1, len(INDICES)), INDICES.values(), strict=True):
            for place, (stage, own) in enumerate(found[found["index"] == index.name].groupby("stage", sort=False)):
                colour = "#333333" if stage == "mean" else stage_colour(stage)
                bounds = [own["value"] - own["low"], own["high"] - own["value"]]
                label = "mean" if stage == "mean" else f"stage {int(stage) + 1}"
                x = own["blocks"] + 0.12 * (place - 1.5)
                axes.errorbar(x, own["value"], bounds, fmt="o-", ms=3, lw=1, color=colour, label=label)
            axes.set_title(index.title)
            axes.set_xticks([(depth - 2) // 6 for depth in DEPTHS], [f"ResNet-{depth}" for depth in DEPTHS], fontsize=7)
        axes.legend(fontsize=6, labelspacing=0.2)  # in the last panel
    return figure


def _draw_points(axes: Axes, points: pd.DataFrame, family: str, stage: int) -> None:
    own = points[points["perturbation"] == family]
    if family == "early read-out":  # the stage without any block is a run that is left out
        nothing = points[(points["perturbation"] == "run drop-out") & (points["path"] == "")].assign(position=0)
        own = pd.concat([nothing, own])
    axes.fill_between(own["position"], own["low"], own["high"], color=stage_colour(stage), alpha=0.2, linewidth=0)
    axes.plot(own["position"], own["value"], "o-", ms=2.5, lw=1, color=stage_colour(stage), label=f"stage {stage + 1}")


def draw_frontier(frontier: pd.DataFrame) -> Figure:
    """The error against the blocks that are left, for every network."""
    with styled():
        axes = (figure := new_figure(6, 3.2)).subplots()
        for shade, (name, own) in zip(np.linspace(0.75, 0, len(DEPTHS)), frontier.groupby("network"), strict=True):
            axes.fill_between(own["blocks"], own["low"], own["high"], color=str(shade), alpha=0.15, linewidth=0)
            axes.plot(own["blocks"], own["error"], "o-", ms=3, lw=1, color=str(shade), label=name)
        axes.set_xlabel("blocks left, without the two transitions")
        axes.set_ylabel("test error, held-out images")
        axes.invert_xaxis()
        axes.legend()
        percent(axes)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, folder in {"work": "runs/pretrained", "results": "results/pretrained", "figures": "docs/figures"}.items():
        parser.add_argument(f"--{name}", type=Path, default=Path(folder))
    parser.add_argument("--only-tables", action="store_true", help="leave out what is not planned yet")
    options = parser.parse_args()
    if "ITERCONV_DATA" not in os.environ:
        raise SystemExit("set ITERCONV_DATA to the folder that holds pretrained/ and cifar10/")
    networks = [Network(depth, options.work) for depth in DEPTHS]
    for kind in ("paper", "further"):
        for network in networks:
            network.evaluate(kind)
    tables = {
        "indices": pd.DataFrame([row for network in networks for row in index_rows(network)]),
        "differences": pd.DataFrame(difference_rows(networks)),
        "frontier": pd.concat([network.plan(options.only_tables) for network in networks]),
        "similarity": pd.concat([network.similarity() for network in networks]),
        "steps": pd.concat([network.steps() for network in networks]),
    }
    for name, table in tables.items():
        rows = table.to_csv(index=False, float_format="%.4f")
        write_atomically(options.results / f"{name}.csv", rows.encode())
    curves = pd.DataFrame([row for network in networks for row in curve_rows(network)])
    write_atomically(options.results / "curves.parquet", to_parquet(curves))
    write(draw_curves(curves, tables["indices"]), options.figures / "trained-by-others.png")
    write(draw_frontier(tables["frontier"]), options.figures / "trained-by-others-frontier.png")
    facts = {"command": shlex.join(["python", *sys.argv]), "images": IMAGES, **machine()}
    (options.results / "facts.json").write_text(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
