"""Measuring: all perturbed paths through the prefix tree, against one pass of the whole network for each path."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from foreign import by_hand, encoder_decoder, models, ours
from ratios import Row, compare, cpu, on_device
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

import iterconv as ic
from iterconv import paths

EXTRA = 16
"""Extra evaluations of the last block, as ``iterconv.measure`` has it by default."""


def make_net(width: int = 8) -> ic.StagedModel:
    """Three stages of 16 blocks."""
    torch.manual_seed(0)
    return ic.models.resnet(width, blocks=16, stages=3, in_channels=3, init="recurrent").eval()


def all_routes(full: paths.Route) -> list[paths.Route]:
    """List all routes that the three indices need, the ordinary pass first."""
    routes = [full]
    for stage, path in enumerate(full):
        count = len(path)
        for family in (paths.early_readouts(count), paths.dropouts(count), paths.extra_evaluations(count, EXTRA)):
            routes += [(*full[:stage], p.path, *full[stage + 1 :]) for p in family]
    return list(dict.fromkeys(routes))


def allowed_ratio(routes: list[paths.Route]) -> float:
    """The ratio of the block applications of one pass for each route to those of the prefix tree."""
    return sum(len(path) for route in routes for path in route) / paths.block_applications(routes)


def whole_pass(net: ic.StagedModel, route: paths.Route, z: Tensor) -> Tensor:
    """One forward pass along a route, written out."""
    z = net.stem(z)
    for number, (stage, path) in enumerate(zip(net.stages, route, strict=True)):
        z = net.transitions[number - 1](z) if number else z
        entering = z
        for block in path:
            z = stage.step(block, z, entering)
    return net.head(z)


def indices(quick: bool, device: str = "cpu") -> Iterator[Row]:
    """Evaluate all paths of the three indices."""
    net = make_net().to(device)
    inputs, routes = torch.randn(16, 3, 16, 16).to(device), all_routes(paths.full_route(net.stages))

    def together() -> dict[paths.Route, Tensor]:
        return {route: outcome.output for route, outcome in paths.evaluate(net, routes, inputs)}

    def apart() -> dict[paths.Route, Tensor]:
        return {route: whole_pass(net, route, inputs) for route in routes}

    with torch.no_grad():
        found, expected = together(), apart()
        if not all(torch.equal(found[route], expected[route]) for route in routes):
            raise SystemExit("the prefix tree comes to other bits than whole passes")
        allowed = allowed_ratio(routes)
        note = f"{len(routes)} paths of 3 x 16 blocks, same bits; the count of block applications allows {allowed:.2f}"
        rounds = 3 if quick else 9
        yield compare(
            "indices", "at least 2.4", on_device(together, device), on_device(apart, device), note, rounds=rounds
        )


class Peak(TorchDispatchMode):
    """The largest number of bytes of tensors that are alive at a time, of those that are made inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: Any = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._alive[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return made


def memory(quick: bool) -> Iterator[Row]:
    """Compare the peak memory of all paths with that of one forward pass."""
    net = make_net()
    inputs, routes = torch.randn(16, 3, 32, 32), all_routes(paths.full_route(net.stages))
    with torch.no_grad():
        with Peak() as one:
            net(inputs)
        with Peak() as all_of_them:
            for _ in paths.evaluate(net, routes, inputs):
                pass
        activation = net.stem(inputs).nbytes
    levels = max(len(path) for route in routes for path in route) + len(net.stages)
    held = (all_of_them.peak - one.peak) / activation
    yield Row(
        "indices-memory",
        held / levels,
        "at most 1",
        all_of_them.peak,
        one.peak,
        (held / levels, held / levels),
        1,
        f"bytes, not seconds; {held:.1f} largest activations more than one forward pass, {levels} levels of the tree",
    )


def foreign(quick: bool) -> Iterator[Row]:
    """Measure models of other libraries, against hooks and whole passes."""
    for name, make in models().items():
        torch.manual_seed(0)
        model, inputs = make()
        adapted = ic.adapt(model.eval(), inputs)
        stages = [list(stage.blocks) for stage in adapted.found]
        with torch.no_grad():
            expected, found = by_hand(model, stages, inputs), ours(adapted, inputs)
            if max(abs(a - b) for a, b in zip(expected, found, strict=True)) > 1e-6:
                raise SystemExit(f"{name}: the two ways come to different errors")
            allowed = allowed_ratio(all_routes(tuple(tuple(range(len(blocks))) for blocks in stages)))
            yield compare(
                f"indices-foreign {name}",
                "at least 0.9",
                cpu(lambda: ours(adapted, inputs)),  # noqa: B023
                cpu(lambda: by_hand(model, stages, inputs)),  # noqa: B023
                f"{len(found)} paths, equal errors; the ratio is the share of {allowed:.2f}, which the count of block "
                "applications allows",
                rounds=1 if quick else 3,
                scale=1 / allowed,
            )


def in_a_row(route: paths.Route) -> list[tuple[int, int]]:
    """List the blocks of all stages of a route."""
    return [(stage, block) for stage, path in enumerate(route) for block in path]


def trunk(quick: bool) -> Iterator[Row]:
    """Run the paths of an encoder-decoder from their first perturbed block on, against whole passes."""
    torch.manual_seed(0)
    model, inputs = encoder_decoder()
    adapted = ic.adapt(model.eval(), inputs)
    full = paths.full_route(adapted.stages)
    routes = all_routes(full)[1:]
    with paths.untouched(model):
        bound = adapted.bind(inputs)
        if any(not torch.equal(bound.alone(route).output, bound.whole(route).output) for route in routes):
            raise SystemExit("behind the trunk, a path comes to other bits")
        applied = sum(len(path) for route in routes for path in route)
        saved = sum(len(os.path.commonprefix([in_a_row(route), in_a_row(full)])) for route in routes)
        yield compare(
            "indices-trunk",
            "at least 1.3",
            cpu(lambda: [bound.alone(route) for route in routes]),
            cpu(lambda: [bound.whole(route) for route in routes]),
            f"{len(routes)} paths of a T5 of 6 + 6 layers, none shared, same bits; the count of block applications "
            f"allows {applied / (applied - saved):.2f}",
            rounds=2 if quick else 7,
        )


def in_bf16(quick: bool) -> Iterator[Row]:
    """Measure networks in bfloat16, against float32."""
    torch.manual_seed(0)
    nets = {f"w{width}": ic.models.resnet(width, 8, stages=1, in_channels=1) for width in (8, 16, 64)}
    subjects = {name: (net, torch.randn(32, 1, 28, 28)) for name, net in nets.items()}
    subjects |= {name: make() for name, make in models().items() if name != "gpt2"}  # whose outputs are not classes
    for name, (model, inputs) in subjects.items():
        batches = [(inputs, torch.arange(len(inputs)) % 10)]
        yield compare(
            f"indices-bf16 {name}",
            "at least 1",
            cpu(lambda: ic.measure(model.eval(), batches, precision="bf16", resamples=0)),  # noqa: B023
            cpu(lambda: ic.measure(model.eval(), batches, resamples=0)),  # noqa: B023
            f"the three indices of {len(inputs)} images of {inputs.shape[-1]} x {inputs.shape[-1]} pixels in bfloat16, "
            "against float32",
            rounds=1 if quick else 3,
        )
