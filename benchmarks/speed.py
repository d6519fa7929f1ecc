"""What iterconv's speed is, as ratios of two ways to do the same work, timed alternately in one run.

Run with ``python benchmarks/speed.py [width]``. Prints medians and their ratio for

- measuring all paths with the prefix tree against running each path alone;
- a training step with gradient coupling against a plain one;
- a training step of a constrained net against one of an ordinary net.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

import iterconv as ic
from iterconv import paths

ROUNDS = 9
SIZE, BATCH = 16, 64


def alternate(name: str, first: Callable[[], object], second: Callable[[], object], rounds: int = ROUNDS) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for work, own in zip((first, second), times, strict=True):
            started = time.perf_counter()
            work()
            own.append(time.perf_counter() - started)
    a, b = (statistics.median(own[1:]) for own in times)  # the first round warms up
    print(f"{name}: {a * 1e3:.1f} ms against {b * 1e3:.1f} ms, ratio {b / a:.2f} (n = {rounds})")


def make_net(width: int, residual: str = "ordinary") -> ic.StagedModel:
    torch.manual_seed(0)
    return ic.models.resnet(width, blocks=16, stages=3, in_channels=3, residual=residual, init="recurrent")


def all_routes(net: ic.StagedModel) -> list[paths.Route]:
    full = paths.full_route(net.stages)
    routes = [full]
    for stage in range(len(full)):
        for family in (paths.early_readouts(16), paths.dropouts(16), paths.extra_evaluations(16)):
            routes += [(*full[:stage], p.path, *full[stage + 1 :]) for p in family]
    return routes


def path_by_path(net: ic.StagedModel, routes: list[paths.Route], inputs: torch.Tensor) -> None:
    for route in routes:
        for _ in paths.evaluate(net, [route], inputs):
            pass


def together(net: ic.StagedModel, routes: list[paths.Route], inputs: torch.Tensor) -> None:
    for _ in paths.evaluate(net, routes, inputs):
        pass


def stepper(net: ic.StagedModel, strength: float | None) -> Callable[[], None]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    if strength is not None:
        ic.couple(optimizer, net.coupling_groups(), strength)
    inputs, targets = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    return step


def main() -> None:
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    print(f"width {width}, 3 stages of 16 blocks, {SIZE} x {SIZE} images, {torch.get_num_threads()} thread(s), CPU")
    net = make_net(width).eval()
    inputs, routes = torch.randn(16, 3, SIZE, SIZE), all_routes(net)
    with torch.no_grad():
        alternate(
            "prefix tree / path by path",
            lambda: together(net, routes, inputs),
            lambda: path_by_path(net, routes, inputs),
        )
    alternate("plain / coupled step", stepper(make_net(width), None), stepper(make_net(width), 0.5))
    alternate("ordinary / constrained step", stepper(make_net(width), None), stepper(make_net(width, "improper"), None))


if __name__ == "__main__":
    main()
