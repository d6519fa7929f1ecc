"""Estimates of a run's time, and the FLOPs that they rest on."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from iterconv import models
from iterconv.measuring.measurement import measure
from iterconv.studies.cost import CORE, GPU, cost, side_by_side
from iterconv.training.config import RunConfig

IMAGES = {"data": "cifar10", "samples": 64, "evaluation_samples": 10, "epochs": 1, "batch_size": 32}


def closed_form(width, blocks, stages, size, channels, classes):
    """FLOPs of one image: twice the multiplications of every convolution and of the linear layer."""
    halved = [(width * 2**stage, size // 2**stage) for stage in range(stages)]
    within = sum(blocks * 2 * 9 * w**2 * s**2 for w, s in halved)
    between = sum(9 * w * 2 * w * (s // 2) ** 2 + 9 * (2 * w) ** 2 * (s // 2) ** 2 for w, s in halved[:-1])
    return 2 * (9 * channels * width * size**2 + within + between + halved[-1][0] * classes)


def passes(run):
    """Forward passes of a run, each for one image: a training step takes three."""
    return 64 * 3 + 10 + 10 * measured_passes(run.blocks, run.stages)


def measured_passes(blocks, stages):
    network = models.resnet(4, blocks, stages, 1)
    report = measure(network, [(torch.randn(4, 1, 8, 8), torch.arange(4))], resamples=0)
    return report.options["block_applications"] / (blocks * stages)


@pytest.mark.parametrize("width, blocks, stages", [(4, 3, 2), (16, 5, 1), (8, 2, 3)])
def test_the_flops_of_a_run_are_what_its_layers_multiply(width, blocks, stages):
    run = RunConfig(width=width, blocks=blocks, stages=stages, **IMAGES)
    expected = passes(run) * closed_form(width, blocks, stages, 32, 3, 10)
    assert sum(cost(run).flops.values()) == pytest.approx(expected, rel=1e-12)
    assert cost(run).launches == 2 * (2 * blocks * stages + 2 * (stages - 1) + 2), "in two steps"


@pytest.mark.parametrize("residual", ["ordinary", "improper"])
def test_a_training_step_takes_three_forward_passes(residual):
    network = models.resnet(8, 3, 2, residual=residual)
    images = torch.randn(16, 3, 32, 32)
    network(images)  # a constrained network's first pass iterates from a random start
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    forward = 16 * closed_form(8, 3, 2, 32, 3, 10)
    assert counter.get_total_flops() == pytest.approx(3 * forward, rel=0.1)


def test_narrow_layers_are_slower_on_a_core_only():
    narrow, wide = (cost(RunConfig(width=width, stages=1, **IMAGES)) for width in (8, 32))
    speeds = [sum(c.flops.values()) / (c.seconds(CORE) - CORE.start - CORE.launch * c.launches) for c in (narrow, wide)]
    assert speeds[1] == pytest.approx(4 * speeds[0], rel=0.02)
    small = cost(RunConfig())
    assert small.seconds(GPU) == GPU.start + GPU.launch * small.launches, "so little work that launching hides it"


@pytest.mark.parametrize(
    "options, seconds, gpu",
    [
        ({"width": 8, "blocks": 5, "stages": 3}, 18.8, 15.8),
        ({"data": "mnist", "width": 16}, 142_900, 832),
        ({"data": "cifar10", "width": 64}, 3_728_000, 43_220),
    ],
)
def test_pinned_estimates(options, seconds, gpu):
    run = RunConfig(**options)
    assert (cost(run).seconds(CORE), cost(run).seconds(GPU)) == pytest.approx((seconds, gpu), rel=0.15)


def test_more_workers_do_not_make_the_longest_run_shorter():
    assert side_by_side([30.0, 10.0, 20.0], 2) == 30.0 and side_by_side([30.0], 2) == 30.0
    assert side_by_side([5.0] * 6, 2) == 15.0 and side_by_side([], 2) == 0.0
