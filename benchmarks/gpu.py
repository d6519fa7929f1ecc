"""What a GPU gives: ``python benchmarks/gpu.py`` checks that its numbers are right, and prints the table of its ratios.

It takes less than ten minutes, needs no network, and says so where there is no GPU. ``--device cpu`` tries the script.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from measuring import indices
from ratios import Row, compare, line
from steps import constraint, coupling
from torch import Tensor

import iterconv as ic
from iterconv import data
from iterconv.training.config import RunConfig
from iterconv.training.run import complete, open_run

RUN = RunConfig(data="digits", width=8, blocks=4, stages=1, epochs=2, coupling=0.5, residual="improper")


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((a.cpu() - b.cpu()).abs().max() / b.abs().max())


def check_paths(device: str) -> float:
    """All indices of one network on the device against the same on the CPU, in double precision."""
    torch.manual_seed(0)
    net = ic.models.resnet(8, 4, 2, 1, 10).double()
    digits = data.load("digits")
    batches = [(inputs.double(), targets) for inputs, targets in digits.batches(digits.test)]
    here = ic.measure(net, batches, resamples=0)
    there = ic.measure(net.to(device), [(x.to(device), y.to(device)) for x, y in batches], resamples=0)
    return float((here.curves.value - there.curves.value).abs().max())


def check_constants(device: str) -> float:
    """Lipschitz constants on the device against those on the CPU."""
    torch.manual_seed(0)
    net = ic.models.resnet(8, 4, 1, 1, 10, residual="proper").eval()
    here = net.stages[0].constants((8, 8))
    return difference(net.to(device).stages[0].constants((8, 8)), here)


def check_coupling(device: str) -> float:
    """A tied step on the device: all blocks keep equal weights."""
    torch.manual_seed(0)
    net = ic.models.resnet(8, 4, 1, 1, 10, init="recurrent").to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ic.couple(optimizer, net.coupling_groups(), 1.0)
    net(torch.randn(16, 1, 8, 8, device=device)).square().mean().backward()
    optimizer.step()
    kernels = [block.conv1.weight for block in net.stages[0].blocks]
    return max(difference(kernels[0], kernel) for kernel in kernels[1:])


def check_training(device: str) -> float:
    """A run on the device ends, and its network has the test error that its result says."""
    with tempfile.TemporaryDirectory() as folder:
        result = complete(RUN, Path(folder) / "run", device=device)
        network, digits, _ = open_run(Path(folder) / "run", "cpu")
        report = ic.measure(network, digits.batches(digits.test), resamples=0)
    curves = report.curves
    intact = curves[(curves.perturbation == "extra evaluation") & (curves.position == 0) & (curves.metric == "error")]
    return abs(float(intact.value.iloc[0]) - result["test_error"])


CHECKS: dict[str, tuple[Callable[[str], float], float]] = {
    "indices equal the CPU's": (check_paths, 1e-8),
    "Lipschitz constants equal the CPU's": (check_constants, 1e-4),
    "tied weights stay tied": (check_coupling, 0.0),
    "a trained run is the same network on the CPU": (check_training, 0.02),
}


def epochs(device: str, **options: object) -> Callable[[], float]:
    """Make a function that trains a run of some epochs, and returns the time of an epoch but the first."""

    def timed() -> float:
        times: list[float] = []
        config = RunConfig(data="digits", width=16, blocks=16, stages=1, epochs=3, **options)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            complete(config, Path(folder) / "run", device=device, on_epoch=lambda _: times.append(time.perf_counter()))
        return (times[-1] - times[0]) / (len(times) - 1)

    return timed


def rows(device: str, rounds: int) -> Iterator[Row]:
    """Measure what the targets speak of, and what each switch of training gives."""
    yield from indices(False, device)
    yield from coupling(False, device)
    yield from constraint(False, device)
    for name, options in ("bf16", {"precision": "bf16"}), ("compile", {"compile": True}):
        note = "seconds of an epoch of digits, one stage of 16 blocks, width 16, against float32 as it comes"
        ours, plain = epochs(device, **options), epochs(device)  # type: ignore[arg-type]
        yield compare(f"train-{name}", "at least 1", ours, plain, note, rounds=rounds)


def main() -> int:
    """Check, then measure."""
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu.py", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here, so nothing is checked and nothing is claimed")
        return 0
    warnings.filterwarnings("ignore")
    wrong = 0
    for name, (check, tolerance) in CHECKS.items():
        found = check(options.device)
        wrong += found > tolerance
        print(
            f"{'right' if found <= tolerance else 'WRONG'}: {name}: {found:.3g} (at most {tolerance:.3g})", flush=True
        )
    print(torch.cuda.get_device_name() if options.device == "cuda" else "CPU", f"torch {torch.__version__}")
    for row in rows(options.device, options.rounds):
        print(line(row), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
