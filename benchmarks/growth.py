"""How cost grows with the size of a problem: ``python benchmarks/growth.py FILE.png`` measures it and draws a picture.

CPU seconds of one thread, the smallest of some repetitions, for measuring, training, stacked runs and planning. With
words behind FILE.png, as ``training``, only these parts are measured anew; growth.json, beside this script, keeps the
figures of all.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from ratios import cpu
from stacks import images, make_runs, stepper
from torch.nn import functional as F

import iterconv as ic
from iterconv.figures.style import new_figure, styled
from iterconv.training.config import RunConfig

REPEATS = 3
SIZE, BATCH = 16, 32

Lines = dict[str, tuple[list[int], list[float]]]
"""Names of lines, with sizes and seconds."""


def seconds(work: Callable[[], object]) -> float:
    """The smallest CPU time of some repetitions, the first of which warms up."""
    return min([cpu(work)() for _ in range(REPEATS + 1)][1:])


def make(width: int = 8, blocks: int = 8, stages: int = 1) -> ic.StagedModel:
    """An ordinary network of images of one channel."""
    torch.manual_seed(0)
    return ic.models.resnet(width, blocks, stages, 1, 10)


def make_batches(examples: int = BATCH) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random images and labels in batches."""
    images, labels = torch.randn(examples, 1, SIZE, SIZE), torch.arange(examples) % 10
    return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))


def measuring() -> dict[str, Lines]:
    """Measure the indices of deeper networks, and of more examples."""
    depths, counts = [2, 4, 8, 16, 32], [32, 64, 128, 256]
    by_depth: Lines = {}
    for stages in (1, 2, 3):
        times = [seconds(lambda: ic.measure(make(8, n, stages), make_batches(), resamples=0)) for n in depths]  # noqa: B023
        by_depth[f"{stages} stage{'s' if stages > 1 else ''}"] = (depths, times)
    by_count = [seconds(lambda: ic.measure(make(), make_batches(n), resamples=0)) for n in counts]  # noqa: B023
    return {
        "measuring: blocks in a stage": by_depth,
        "measuring: examples": {"1 stage of 8 blocks": (counts, by_count)},
    }


def training() -> dict[str, Lines]:
    """Take training steps of wider and of deeper networks."""

    def step(width: int, blocks: int, precision: torch.dtype | None) -> float:
        net = make(width, blocks).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        [(images, labels)] = make_batches()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

        def work() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", precision, enabled=precision is not None):
                outputs = net(images)
            F.cross_entropy(outputs.float(), labels).backward()
            optimizer.step()

        return seconds(work)

    widths, depths = [4, 8, 16, 32, 64], [2, 4, 8, 16, 32]
    kinds = {"float32": None, "bf16": torch.bfloat16}
    return {
        "a training step: width": {k: (widths, [step(n, 8, dtype) for n in widths]) for k, dtype in kinds.items()},
        "a training step: blocks": {k: (depths, [step(8, n, dtype) for n in depths]) for k, dtype in kinds.items()},
    }


def stacking() -> dict[str, Lines]:
    """Take training steps of more runs that are trained side by side as one network."""
    counts, dataset = [1, 2, 4, 8], images(BATCH, SIZE)
    lines: Lines = {}
    for width, precision in ((8, "float32"), (8, "bf16"), (16, "float32")):
        config = RunConfig(data="mnist", width=width, blocks=8, batch_size=BATCH, precision=precision)
        times = [seconds(stepper(make_runs(config, dataset, count))) for count in counts]
        lines[f"width {width}, {precision}"] = (counts, times)
    return {"a training step: stacked runs": lines}


def planning() -> dict[str, Lines]:
    """Plan with more blocks and wider beams."""
    depths: list[int] = [2, 4, 8, 16]
    batches = make_batches(2 * BATCH)
    lines: Lines = {}
    for beam in (1, 2, 4):
        times = [
            seconds(lambda: ic.plan(make(4, n), batches, budget=1, beam=beam, resamples=0))  # noqa: B023
            for n in depths
        ]
        lines[f"beam {beam}"] = (depths, times)
    return {"planning down to 1: blocks": lines}


def draw(panels: dict[str, Lines]) -> Figure:
    """Draw each panel with logarithmic axes and, dashed, growth in proportion to the size."""
    figure = new_figure(10, 6)
    for axes, (title, lines) in zip(figure.subplots(2, 3).flat, panels.items(), strict=False):
        for name, (sizes, times) in lines.items():
            axes.plot(sizes, times, marker="o", label=name)
        sizes, times = next(iter(lines.values()))
        proportional = [times[-1] * size / sizes[-1] for size in sizes]
        axes.plot(sizes, proportional, "--", color="grey", label="in proportion")
        axes.set(title=title, xscale="log", yscale="log", ylabel="CPU seconds")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return figure


PARTS = {"measuring": measuring, "training": training, "stacking": stacking, "planning": planning}


def main(path: str, *parts: str) -> None:
    """Measure the parts, keep their figures in a file beside this script, and draw all that are kept."""
    torch.set_num_threads(1)
    kept = Path(__file__).with_suffix(".json")
    figures = json.loads(kept.read_text()) if kept.exists() else {}
    for part in parts or PARTS:
        figures[part] = PARTS[part]()
        kept.write_text(json.dumps(figures, indent=1))
    panels = {title: lines for part in PARTS for title, lines in figures.get(part, {}).items()}
    with styled():
        draw(panels).savefig(Path(path), dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
