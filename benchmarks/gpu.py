"""What a GPU gives: ``python benchmarks/gpu.py`` checks that its numbers are right, and prints the table of its ratios.

It needs no network, and says so where there is no GPU. ``--device cpu`` tries the script.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import indices
from ratios import Row, compare, line, on_device
from stacks import images, make_runs, stepper
from steps import constraint, coupling
from torch import Tensor, nn

import iterconv as ic
from iterconv import data
from iterconv.training.config import RunConfig
from iterconv.training.loop import compiled
from iterconv.training.recorded import Recorded
from iterconv.training.run import complete, open_run
from iterconv.training.trainee import Trainee

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


def training(
    device: str, way: str = "recorded", nets: int = 1, size: tuple[int, int] = (128, 32), **options: Any
) -> tuple[list[Trainee], Callable[[], object]]:
    """Make coupled runs of width 8 with 16 blocks a stage, and a function that trains them side by side by one step.

    The way is "plain", "recorded" (what ``train`` does on a GPU) or "compiled"; the size that of batches and of images.
    """
    ways: dict[str, Callable[[nn.Module], nn.Module]] = {
        "plain": lambda network: network,
        "recorded": Recorded if device == "cuda" else lambda network: network,
        "compiled": compiled,
    }
    torch.manual_seed(0)
    config = RunConfig(data="cifar10", width=8, batch_size=size[0], coupling=0.5, **options)
    runs = make_runs(config, images(*size, channels=3, device=device), nets)
    return runs, stepper(runs, ways[way])


def check_recording(device: str) -> float:
    """Recorded steps against the same steps not recorded, for all kinds of networks."""
    worst = 0.0
    kinds: list[dict[str, Any]] = [
        *({"residual": residual} for residual in ("ordinary", "improper", "proper")),
        *({"precision": "bf16", "residual": residual} for residual in ("ordinary", "proper")),
        {"nets": 3, "stages": 1},
    ]
    torch.backends.cudnn.deterministic = True
    for kind in kinds:
        states = []
        for way in ("plain", "recorded"):
            runs, step = training(device, way, size=(32, 16), **kind)
            for _ in range(5):
                step()
            states.append([tensor.double() for run in runs for tensor in run.network.state_dict().values()])
        found = [difference(a, b) for a, b in zip(*states, strict=True) if bool(b.any())]
        worst = float(torch.tensor([worst, *found]).max())  # NaN is kept
    torch.backends.cudnn.deterministic = False
    return worst


CHECKS: dict[str, tuple[Callable[[str], float], float]] = {
    "the curves behind the indices equal the CPU's": (check_paths, 1e-6),
    "Lipschitz constants equal the CPU's": (check_constants, 1e-4),
    "tied weights stay tied": (check_coupling, 0.0),
    "a trained run is the same network on the CPU": (check_training, 0.02),
    "recorded training steps equal those that are not": (check_recording, 1e-4),
}


def rows(device: str, rounds: int) -> Iterator[Row]:
    """Measure what the targets speak of, and what each way of training gives."""
    yield from coupling(False, device)
    yield from constraint(False, device)
    constrained = {"residual": "improper"}
    ways: dict[str, tuple[dict[str, Any], dict[str, Any], float, str]] = {
        "train-recorded": ({}, {"way": "plain"}, 1, "3 stages: recorded as train does it, against not recorded"),
        "train-bf16": ({"precision": "bf16"}, {}, 1, "3 stages: recorded bf16 against recorded float32"),
        "train-constrained": (constrained, {**constrained, "way": "plain"}, 1, "3 stages of an ICR, recorded or not"),
        "train-stack": ({"nets": 4, "stages": 1}, {"stages": 1}, 4, "1 stage: a stack of four nets, against four nets"),
        "train-compile": ({"way": "compiled"}, {}, 1, "3 stages: compiled, against recorded"),
    }
    for name, (ours, theirs, scale, note) in ways.items():
        first, second = (many_steps(device, **options) for options in (ours, theirs))
        note = f"30 steps with 128 images of 32 x 32, 16 blocks a stage, width 8, coupling 0.5; {note}"
        yield compare(name, "at least 1", first, second, note, rounds=rounds, scale=scale)
    yield from indices(False, device)


def many_steps(device: str, **options: Any) -> Callable[[], float]:
    """Make a timed function of 30 training steps."""
    _, step = training(device, **options)

    def steps() -> None:
        for _ in range(30 if device == "cuda" else 1):
            step()

    return on_device(steps, device)


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
        right = found <= tolerance  # which NaN is not
        wrong += not right
        print(f"{'right' if right else 'WRONG'}: {name}: {found:.3g} (at most {tolerance:.3g})", flush=True)
    print(torch.cuda.get_device_name() if options.device == "cuda" else "CPU", f"torch {torch.__version__}")
    for row in rows(options.device, options.rounds):
        print(line(row), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
