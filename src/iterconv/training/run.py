"""A whole run: ``complete`` trains and measures a network and finishes its folder, ``open_run`` reads it again."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from iterconv import data
from iterconv.coupling import effective_parameter_count
from iterconv.errors import InputError
from iterconv.files import read_tensors
from iterconv.measuring.measurement import measure
from iterconv.measuring.report import Report
from iterconv.paths.contract import StagedModel
from iterconv.training.card import CARD, make_card
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.loop import Stop, train
from iterconv.training.network import check_network, make_network
from iterconv.training.ranks import check_devices, train_on
from iterconv.training.team import default_device
from iterconv.training.trackers import check_trackers, opened
from iterconv.training.trainee import OnEpoch, selection_split


def complete(
    config: RunConfig,
    path: Path,
    *,
    device: str | None = None,
    devices: int = 1,
    log: Sequence[str] = (),
    on_epoch: OnEpoch | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Bring a run to its end: train what is missing, measure the indices on the test split.

    Args:
        config: The run.
        path: Its folder.
        device: A torch device; the accelerator that is there by default. For several devices, their kind.
        devices: The number of devices to train on, with a process for each. It changes numbers by rounding only, and
            may differ from that of an earlier session.
        log: The trackers that the run is logged with, of ``options.Tracker``.
        on_epoch: Receives each new row of the history.
        stop: Asked after each training step and each measured batch.

    Returns:
        The contents of ``result.json``; a finished run is only read, and looked at for damage.

    Raises:
        InputError: If the options don't fit the data or the machine, or a file can't be read or written.
        KeyboardInterrupt: If it was asked to stop; the state is saved by then.
    """
    folder = RunFolder(path, config)
    check_trackers(log)
    check_devices(devices, device, config)
    with folder.claim(), on_threads(config.threads):
        if folder.finished:
            folder.check()
            Report.load(path / "report.parquet")
            with opened(log, folder) as logs:
                logs.conclude()
            return folder.result()
        dataset = load_data(config, device)
        check_network(config, dataset)
        selection_split(config, dataset)
        folder.write_json("config.json", config.to_dict())  # now that the options are known to fit the data
        try:
            with opened(log, folder) as logs:

                def each(row: dict[str, float]) -> None:
                    logs.update()
                    if on_epoch:
                        on_epoch(row)

                _finish(folder, dataset, devices, each, stop)
                logs.conclude()
        except Exception:
            folder.give_up()
            raise
        return folder.result()


def _finish(folder: RunFolder, dataset: data.Data, devices: int, on_epoch: OnEpoch, stop: Stop | None) -> None:
    started = time.monotonic()
    arguments = folder.config, folder, dataset, on_epoch, stop
    network = train_on(devices, *arguments) if devices > 1 else train(*arguments)
    conclude(folder, network, dataset, stop, started, devices=devices)


def conclude(
    folder: RunFolder,
    network: StagedModel,
    dataset: data.Data,
    stop: Stop | None,
    started: float,
    *,
    devices: int = 1,
    stack: int = 1,
) -> None:
    """Measure a trained network, and finish the folder of its run.

    Args:
        folder: The run's folder, claimed by this process.
        network: The network with the best epoch's weights.
        dataset: Its data.
        stop: Asked after each measured batch.
        started: The time by ``time.monotonic`` at which this session began.
        devices: The number of devices that it was trained on.
        stack: The number of networks that were trained together as one.

    Raises:
        InputError: If a file can't be written.
        KeyboardInterrupt: If it was asked to stop.
    """

    def progress(done: int, total: int | None) -> None:
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt

    if next(network.parameters()).is_cuda:  # recorded training steps refer to each other, and hold a batch's memory
        gc.collect()
    report = measure(network, dataset.batches(dataset.test), progress=progress)
    report.save(folder.path / "report.parquet")
    result = _result(folder, network, devices, report, started)
    if folder.config.stack > 1:
        result["stack"] = stack
    folder.write(CARD, make_card(folder.config, result, report, dataset).encode())
    folder.write_json("result.json", result)
    folder.drop_checkpoint()


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute on so many threads: sums in another order differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result(folder: RunFolder, network: StagedModel, devices: int, report: Any, started: float) -> dict[str, Any]:
    run = folder.config
    groups = network.coupling_groups(run.first_coupled) if run.tieable else []
    count = effective_parameter_count(network, groups)
    curves = report.curves
    intact = curves[(curves.perturbation == "extra evaluation") & (curves.position == 0) & (curves.stage == 0)]
    test = intact.set_index("metric")["value"]
    return {
        "name": run.name,
        "test_error": float(test["error"]),
        "test_exact_error": float(test["exact_error"]) if "exact_error" in test else None,
        "test_loss": float(test["cross_entropy"]),
        "test_examples": report.options["examples"],
        "chance": report.options["chance"],
        **count._asdict(),
        "device": str(next(network.parameters()).device),
        "devices": devices,
        "threads": run.threads,
        "torch": torch.__version__,
        "history_sha256": folder.history_digest(),
        "seconds_of_last_session": round(time.monotonic() - started, 1),
    }


def load_data(config: RunConfig, device: str | None = None) -> data.Data:
    """Load the data set of a run on a device; a process loads it once.

    Args:
        config: The run.
        device: A torch device; the accelerator that is there by default.

    Returns:
        The data.

    Raises:
        InputError: If the data or the device do not exist.
    """
    return _load(
        config.data,
        config.samples,
        config.evaluation_samples,
        device or default_device(),
    )


@lru_cache(maxsize=2)
def _load(name: str, samples: int | None, evaluation_samples: int | None, device: str) -> data.Data:
    return data.load(name, samples=samples, evaluation_samples=evaluation_samples, device=device)


def open_run(path: Path, device: str | None = None) -> tuple[StagedModel, data.Data, RunFolder]:
    """Load the trained network of a run and its data.

    Args:
        path: The run's folder.
        device: A torch device; the accelerator that is there by default.

    Returns:
        The network with the best epoch's weights, the data, and the folder.

    Raises:
        InputError: If the folder holds no trained run, or its weights are damaged.
    """
    folder = RunFolder.existing(path)
    weights = path / "best.safetensors"
    state = read_tensors(weights, f"there are no weights at {weights}; finish the run with `iterconv train`", _AGAIN)
    dataset = load_data(folder.config, device)
    network = make_network(folder.config, dataset)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise InputError(f"{weights} is of another network; delete it and {_AGAIN}") from None
    if folder.finished:
        with suppress(OSError):
            folder.drop_checkpoint()  # left by a process that was killed at its very end
    return network.to(dataset.train.images.device), dataset, folder


_AGAIN = "train again"
