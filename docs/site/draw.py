"""Draw the pictures of the pages that explain: perturbations with their indices, and kernels of coupling."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

import iterconv as ic
from iterconv.figures.style import STAGE_COLOURS, new_figure, percent, styled, write

FIGURES = Path(__file__).parents[1] / "figures"
BLOCKS = 8
EPOCHS = 12
INK = "#444444"
# For each family: its title, its index, the label of its curve, and the names and states of the blocks that are drawn.
PANELS = {
    "early read-out": ("Early read-out", "convergence", "blocks executed", "1234", (True, True, False, False)),
    "drop-out": ("Drop-out", "recurrence", "block left out", "1234", (True, False, True, True)),
    "extra evaluation": (
        "Extra evaluations",
        "divergence",
        "further evaluations of the last block",
        "123444",
        (True,) * 6,
    ),
}


def train() -> ic.Report:
    """Train a network on the digits, and measure it."""
    torch.manual_seed(0)
    digits = ic.data.load("digits")
    net = ic.models.resnet(width=8, blocks=BLOCKS, stages=1, in_channels=1, init="independent")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [EPOCHS // 2, 3 * EPOCHS // 4])
    for epoch in range(EPOCHS):
        for inputs, targets in digits.training_batches(32, torch.Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
        schedule.step()
    return ic.measure(net, digits.batches(digits.test), resamples=0)


def draw_path(axes: Axes, title: str, names: str, executed: tuple[bool, ...]) -> None:
    """Draw a row of blocks; those that are not executed are hollow and passed by."""
    axes.set(xlim=(-1.2, 7.2), ylim=(-0.6, 1.2), aspect="equal")
    axes.set_title(title)
    axes.set_axis_off()
    for x, (name, on) in enumerate(zip(names, executed, strict=True)):
        colour = STAGE_COLOURS[1 if x >= BLOCKS // 2 else 0]
        style: dict[str, Any] = {
            "edgecolor": colour,
            "facecolor": colour if on else "none",
            "linestyle": "-" if on else ":",
        }
        axes.add_patch(Rectangle((x - 0.3, -0.3), 0.6, 0.6, **style))
        axes.text(x, 0, name, ha="center", va="center", color="white" if on else colour)
    edges = [(-0.9, -0.9), *((x - 0.3, x + 0.3) for x, on in enumerate(executed) if on), (len(names) - 0.1,) * 2]
    for (_, left), (right, _) in zip(edges, edges[1:], strict=False):
        bend = "arc3,rad=-0.5" if right - left > 1 else "arc3"
        arrow = {"arrowstyle": "->", "color": INK, "connectionstyle": bend, "shrinkA": 0, "shrinkB": 0}
        height = 0.3 if right - left > 1 else 0
        axes.annotate("", xy=(right, height), xytext=(left, height), arrowprops=arrow)
    axes.text(len(names), 0, "head", va="center", color=INK)


def draw_curve(axes: Axes, report: ic.Report, family: str, index: str, label: str) -> None:
    """Draw a curve of errors, with the area that its index is about."""
    curve = report.curves[(report.curves.perturbation == family) & (report.curves.metric == "error")]
    x, y, chance = curve["position"].to_numpy(), curve["value"].to_numpy(), report.options["chance"]
    reference = y[0] if family == "extra evaluation" else y[-1]
    perturbed = slice(1, None) if family == "extra evaluation" else slice(None, -1)
    colour = STAGE_COLOURS[0]
    axes.plot(x, y, "o-", color=colour, markersize=3)
    axes.axhline(chance, color=INK, linestyle=":", linewidth=1)
    axes.axhline(reference, color=INK, linestyle="--", linewidth=1)
    axes.fill_between(
        x[perturbed], y[perturbed], chance if index == "convergence" else reference, color=colour, alpha=0.25
    )
    value = report.indices.set_index(["stage", "index"]).value[0, index]
    axes.set_title(f"{ic.indices.INDICES[index].title} {value:.2f}", fontweight="normal")
    axes.set(xlabel=label, ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    percent(axes)


def draw_perturbations(report: ic.Report) -> None:
    """Draw the three perturbations, and below each its curve."""
    with styled():
        figure = new_figure(9, 4.2)
        panels = figure.subplots(2, 3, height_ratios=(1, 2.4))
        for top, bottom, (family, (title, index, label, names, executed)) in zip(*panels, PANELS.items(), strict=True):
            draw_path(top, title, names, executed)
            draw_curve(bottom, report, family, index, label)
        panels[1, 0].set_ylabel("test error")
        write(figure, FIGURES / "perturbations.png")


def draw_kernels() -> None:
    """Draw the mixtures of gradients of several kernels."""
    late = torch.eye(BLOCKS, dtype=torch.float64)
    late[3:, 3:] = ic.coupling.coupling_matrix(BLOCKS - 3, 0.5)
    kernels = {
        "uniform, 0.5": ic.coupling.coupling_matrix(BLOCKS, 0.5),
        "triangular, 0.5": ic.coupling.coupling_matrix(BLOCKS, 0.5, "triangular"),
        "triangular, 0.9": ic.coupling.coupling_matrix(BLOCKS, 0.9, "triangular"),
        "uniform, 0.5, late": late,
    }
    with styled():
        figure = new_figure(9, 2.5)
        panels = figure.subplots(1, len(kernels), sharey=True)
        for axes, (title, matrix) in zip(panels, kernels.items(), strict=True):
            image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=0.6, extent=(0.5, BLOCKS + 0.5, BLOCKS + 0.5, 0.5))
            axes.set(title=title, xlabel="gradient of block", xticks=range(1, BLOCKS + 1), yticks=range(1, BLOCKS + 1))
        panels[0].set_ylabel("goes into block")
        figure.colorbar(image, ax=panels, label="weight", extend="max")
        write(figure, FIGURES / "kernels.png")


if __name__ == "__main__":
    draw_perturbations(train())
    draw_kernels()
