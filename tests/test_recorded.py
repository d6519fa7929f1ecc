"""Recorded training steps: what is replayed, what goes through the network as it is, and what recording leaves."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import iterconv as ic
from iterconv.training.config import RunConfig
from iterconv.training.recorded import Recorded
from iterconv.training.run import complete


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Size, ...]]:
    """Stand in for CUDA graphs: warm up with real steps as torch does, then count the replays by their shapes."""
    replays: list[tuple[torch.Size, ...]] = []

    def record(module: nn.Module, samples: tuple[Tensor, ...]) -> None:
        plain = module.forward
        for _ in range(3):
            plain(*samples)

        def replay(*inputs: Tensor) -> Any:
            assert [x.shape for x in inputs] == [x.shape for x in samples]
            replays.append(tuple(x.shape for x in inputs))
            return plain(*inputs)

        module.forward = replay  # type: ignore[method-assign]

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return replays


@pytest.mark.parametrize("residual", ["ordinary", "improper", "proper"])
def test_a_recorded_network_computes_and_learns_as_it_would_anyway(residual: Any, recordings: list[Any]) -> None:
    torch.manual_seed(0)
    plain = ic.models.resnet(4, 3, 2, 1, 10, residual=residual)
    recorded = copy.deepcopy(plain)
    networks = plain, Recorded(recorded)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in networks]
    for count in (8, 8, 8, 3, 8, 8):
        batch = torch.randn(count, 1, 8, 8)
        outputs = [network(batch) for network in networks]
        assert torch.equal(*outputs)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            output.square().mean().backward()
            optimizer.step()
    assert len(recordings) == 4  # not the first batch, which prepares singular vectors, nor the smaller one
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, recorded.state_dict()[name]), name


def test_another_shape_is_recorded_once_it_comes_twice_in_a_row(recordings: list[Any]) -> None:
    network = Recorded(nn.Linear(2, 2))
    for count in (4, 4, 3, 4, 3, 3, 3, 4):
        network(torch.zeros(count, 2))
    assert [shapes[0][0] for shapes in recordings] == [4, 4, 3, 3]


def test_recording_in_autocast_does_not_keep_casts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        torch.cuda,
        "make_graphed_callables",
        lambda *_: seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled())),
    )
    network, batch = Recorded(nn.Linear(2, 2)), torch.zeros(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        network(batch), network(batch)
        assert torch.is_autocast_cache_enabled()
    assert seen == [(True, False)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", [{}, {"coupling": 1.0}, {"residual": "proper", "precision": "bf16"}])
def test_a_run_on_a_gpu_is_the_same_without_recordings(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = RunConfig(data="digits", width=8, blocks=4, epochs=2, **changes)
    recorded = complete(config, tmp_path / "recorded", device="cuda")
    monkeypatch.setattr("iterconv.training.loop.Recorded", lambda network: network)
    plain = complete(config, tmp_path / "plain", device="cuda")
    assert abs(recorded["test_error"] - plain["test_error"]) <= 0.03
    assert abs(recorded["test_loss"] - plain["test_loss"]) <= 0.05
