"""Recorded training steps: what is replayed, what goes through the network as it is, and what recording leaves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from iterconv.training import loop
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.recorded import Recorded
from iterconv.training.run import complete
from iterconv.training.stack import complete_stack
from iterconv.training.trainee import Trainee

RUN = RunConfig(width=4, blocks=3, epochs=3, samples=150, batch_size=32, lr=0.05, augment=True)


class StandIn:
    """CUDA graphs on the CPU: passes whose inputs, outputs and gradients lie in the same memory at every step."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, module: nn.Module, samples: tuple[Tensor, ...]) -> None:
        """Take the place of ``torch.cuda.make_graphed_callables``."""
        self.recorded += 1
        plain, parameters = module.forward, tuple(module.parameters())
        used = [*parameters, *module.buffers()]
        places = [tensor.data_ptr() for tensor in used]
        for _ in range(3):  # as torch warms up
            outputs = plain(*samples)
        several = isinstance(outputs, tuple)
        kept = [output.detach().clone() for output in loop.apart(outputs)]
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        outer = self

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Tensor) -> Any:
                outer.replayed += 1
                assert places == [tensor.data_ptr() for tensor in used]
                _fill(samples, inputs)
                with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                    ctx.made = loop.apart(plain(*samples))
                _fill(kept, ctx.made)
                return tuple(output.detach() for output in kept)

            @staticmethod
            def backward(ctx: Any, *given: Tensor) -> Any:
                with torch.autocast("cpu", enabled=False):
                    _fill(gradients, torch.autograd.grad(ctx.made, parameters, given))
                return *(None for _ in samples), *(gradient.detach() for gradient in gradients)

        def replay(*inputs: Tensor) -> Any:
            made = Replay.apply(*inputs, *parameters)
            return made if several else made[0]

        module.forward = replay  # type: ignore[method-assign]


@torch.no_grad()
def _fill(places: Any, values: Any) -> None:
    for place, value in zip(places, values, strict=False):  # the inputs come with the weights behind them
        place.copy_(value)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in, through which runs on the CPU go, too."""
    graphs = StandIn()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphs)
    monkeypatch.setattr(loop, "_quick", lambda network, *_: Recorded(network))
    return graphs


def weights(folder: Path) -> dict[str, Tensor]:
    """The best epoch's weights of a run."""
    return load_file(folder / "best.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """True if two networks have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"coupling": 1.0, "stages": 2},
        {"residual": "improper", "coupling": 0.5},
        {"residual": "proper", "precision": "bf16"},
    ],
)
def test_a_recorded_run_is_the_run_itself(
    changes: dict[str, Any], graphs: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(RUN, **changes)
    complete(config, tmp_path / "recorded", device="cpu")
    assert graphs.recorded == 1 and graphs.replayed == 3 * 4 - 1  # but for the smaller batches and the very first
    with pytest.raises(KeyboardInterrupt):
        complete(config, tmp_path / "interrupted", device="cpu", stop=After(7))
    complete(config, tmp_path / "interrupted", device="cpu")
    monkeypatch.setattr(loop, "_quick", lambda network, *_: network)
    complete(config, tmp_path / "plain", device="cpu")
    assert equal(weights(tmp_path / "recorded"), weights(tmp_path / "plain"))
    assert equal(weights(tmp_path / "interrupted"), weights(tmp_path / "plain"))


class After:
    """Asks a run to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def is_set(self) -> bool:
        """Count a step."""
        self.left -= 1
        return self.left < 0


def test_a_stack_is_recorded_anew_when_one_of_its_networks_has_failed(
    graphs: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Trainee.finish_epoch

    def fail(self: Trainee) -> None:
        if self.config.seed == 2 and self.progress.epoch == 0:
            self.progress.loss = float("nan")
        finish(self)

    monkeypatch.setattr(Trainee, "finish_epoch", fail)
    runs = [replace(RUN, stack=3, seed=seed, coupling=0.5) for seed in (1, 2, 3)]
    for way in ("recorded", "plain"):
        folders = [RunFolder(tmp_path / way / run.name, run) for run in runs]
        with pytest.raises(Exception, match="the loss became nan"):
            complete_stack(folders, tmp_path / way / "stack", device="cpu")
        monkeypatch.setattr(loop, "_quick", lambda network, *_: network)
    assert graphs.recorded == 2
    for run in (runs[0], runs[2]):
        assert equal(weights(tmp_path / "recorded" / run.name), weights(tmp_path / "plain" / run.name))


def test_another_shape_is_recorded_once_it_comes_twice_in_a_row(graphs: StandIn) -> None:
    network = Recorded(nn.Linear(2, 2))
    seen = []
    for count in (4, 4, 3, 4, 3, 3, 3, 4):
        before = graphs.replayed
        network(torch.zeros(count, 2))
        seen += [count] * (graphs.replayed - before)
    assert seen == [4, 4, 3, 3] and graphs.recorded == 2


def test_weights_that_have_moved_are_recorded_anew_in_the_next_epoch(graphs: StandIn) -> None:
    layer, batch = nn.Linear(2, 2), torch.ones(4, 2)
    network = Recorded(layer)
    network(batch), network(batch)
    layer.weight.data = torch.zeros(2, 2)
    network.train()
    network(batch)
    assert torch.equal(network(batch), layer(batch))
    assert graphs.recorded == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", [{}, {"coupling": 1.0}, {"residual": "proper", "precision": "bf16"}])
def test_a_run_on_a_gpu_is_the_same_without_recordings(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = replace(RUN, **changes)
    complete(config, tmp_path / "recorded", device="cuda")
    monkeypatch.setattr(loop, "Recorded", lambda network: network)
    complete(config, tmp_path / "plain", device="cuda")
    recorded, plain = weights(tmp_path / "recorded"), weights(tmp_path / "plain")
    for name, tensor in plain.items():
        torch.testing.assert_close(recorded[name], tensor, rtol=1e-3, atol=1e-3)
