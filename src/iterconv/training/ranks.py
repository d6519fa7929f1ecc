"""A run on several devices: one process for each, and this one, which starts the others and follows them.

All processes are on this machine. They meet by a file, so that no port has to be free for that, and each has a line to
this process: it hears whether to stop, and tells what came of it. This process trains nothing, so that it can end the
others whatever they wait for.
"""

import math
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed

from iterconv import data
from iterconv.data.workers import signals_held
from iterconv.errors import InputError, OptionError, check_count
from iterconv.files import read_tensors
from iterconv.paths.contract import StagedModel
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.loop import Stop, train
from iterconv.training.network import make_network
from iterconv.training.team import Team, default_device
from iterconv.training.trainee import OnEpoch

PATIENCE = 5.0
"""Seconds that the other processes have to end by themselves after one has failed."""


def check_devices(devices: int, device: str | None, config: RunConfig) -> None:
    """Refuse a number of devices that this machine or the batches don't have.

    Args:
        devices: The number of devices.
        device: The kind of device, or None for the accelerator that is there.
        config: The run.

    Raises:
        InputError: If there are not so many, or several are asked for and one is named.
    """
    if check_count("devices", devices, why="is too few") == 1:
        return
    if config.compile:
        raise OptionError("compile", True, f"is for one device, not for {devices}; leave out one of the two options")
    kind, there, batch_size = device or default_device(), torch.cuda.device_count(), config.resolved().batch_size
    if kind not in ("cpu", "cuda"):
        raise OptionError("device", kind, f"is not a kind of {devices} devices; use cpu or cuda")
    if kind == "cuda" and devices > there:
        raise OptionError("devices", devices, f"is more than the {there} GPUs of this machine; use fewer")
    if batch_size is not None and devices > batch_size:
        raise OptionError("devices", devices, f"is more than the {batch_size} images of a batch; use fewer")


def train_on(
    devices: int,
    config: RunConfig,
    folder: RunFolder,
    dataset: data.Data,
    on_epoch: OnEpoch | None = None,
    stop: Stop | None = None,
) -> StagedModel:
    """Train one network as ``loop.train`` does, by several processes with a device each.

    Each batch is divided among them; gradients, batch statistics and the loss are those of the whole batch, so that
    the numbers differ from those of one process by rounding only. Checkpoints are the same for any number of devices.

    Args:
        devices: The number of processes, as ``check_devices`` accepts it.
        config: The run.
        folder: The folder for its files, claimed by this process.
        dataset: Its data, on a device of the kind to train on.
        on_epoch: Receives each new row of the history.
        stop: Looked at all the time.

    Returns:
        The network with the best epoch's weights, on the device of the data.

    Raises:
        InputError: For the reasons for which ``loop.train`` raises it, or if a process has died.
        RuntimeError: If a process has failed otherwise.
        KeyboardInterrupt: If it was asked to stop; the state is saved by then.
    """
    device = dataset.train.images.device
    with TemporaryDirectory(prefix="iterconv-") as meeting:
        ranks: list[_Rank] = []
        try:
            with signals_held("SIGINT", "SIGTERM", "SIGHUP"):
                for number in range(devices):
                    ranks.append(_start(Team(number, devices), folder, device.type, f"{meeting}/ranks"))
            _follow(ranks, on_epoch, stop)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.join()
    network = make_network(config, dataset)
    network.load_state_dict(read_tensors(folder.path / "best.safetensors"))
    return network.to(device)


@dataclass
class _Rank:
    """One of the processes, as this one sees it."""

    team: Team
    process: SpawnProcess
    line: Connection
    problem: BaseException | None = None

    def hear(self) -> dict[str, float] | BaseException | None:
        """Receive a row of the history, or the end: an exception, or None if all went well."""
        try:
            news: dict[str, float] | BaseException | None = self.line.recv()
            return news
        except (EOFError, OSError):
            self.process.join(PATIENCE)
            return _Died(self.team, self.process.exitcode)


class _Died(InputError):
    """A process has ended without a word."""

    def __init__(self, team: Team, code: int | None) -> None:
        # Where one process dies or fails, communication in another one may abort it.
        self.of_itself = code != -signal.SIGABRT
        reason = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        super().__init__(
            f"process {team.rank + 1} of {team.size} died ({reason}), perhaps for lack of memory; the same command "
            "goes on from the last saved state"
        )


def _start(team: Team, folder: RunFolder, kind: str, meeting: str) -> _Rank:
    context = get_context("spawn")
    line, other = context.Pipe()
    process = context.Process(target=_work, args=(team, folder.config, folder.path, kind, meeting, other))
    process.start()
    other.close()  # so that the line is seen to end with the process
    return _Rank(team, process, line)


def _follow(ranks: list[_Rank], on_epoch: OnEpoch | None, stop: Stop | None) -> None:
    """Pass on what the processes tell until all have ended, and raise what ended them."""
    lines = {rank.line: rank for rank in ranks}
    asked, last = False, math.inf
    while lines and time.monotonic() < last:
        if not asked and stop is not None and stop.is_set():
            asked = True
            for line in lines:
                with suppress(OSError):  # of a process that has just died
                    line.send("stop")
        ready = wait(list(lines), timeout=0.1)
        for line in [line for line in lines if line in ready]:
            news = lines[line].hear()
            if isinstance(news, dict):
                if on_epoch:
                    on_epoch(news)
                continue
            lines.pop(line).problem = news
            if isinstance(news, Exception):  # the others may wait for this process for ever
                last = min(last, time.monotonic() + PATIENCE)
    problems = [rank.problem for rank in ranks if rank.problem is not None]
    if problems:
        raise min(problems, key=_consequence)


def _consequence(problem: BaseException) -> int:
    """Tell how much a problem looks like the consequence of another process's problem."""
    if isinstance(problem, _Died):
        return 1 if problem.of_itself else 4
    return 0 if isinstance(problem, InputError) else 2 if isinstance(problem, Exception) else 3


def _work(team: Team, config: RunConfig, path: Path, kind: str, meeting: str, line: Connection) -> None:
    """Train in one of the processes, and tell what came of it."""
    outcome: BaseException | None = None
    try:
        _train(team, config, path, kind, meeting, line)
    except (InputError, KeyboardInterrupt) as problem:
        outcome = problem
    except Exception:  # which may not survive being sent
        outcome = RuntimeError(f"process {team.rank + 1} of {team.size} failed:\n{traceback.format_exc()}")
    with suppress(EOFError, OSError):
        line.send(outcome)
        while True:  # the others are not to lose their connections while they still save, so this process is ended
            line.recv()
    os._exit(0)  # an ordinary exit sometimes aborts or hangs in gloo's threads


def _train(team: Team, config: RunConfig, path: Path, kind: str, meeting: str, line: Connection) -> None:
    torch.set_num_threads(config.threads)
    os.environ.update(LOCAL_RANK=str(team.rank), NODE_RANK="0")  # for Fabric
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else is to listen or to talk
    backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=team.rank, world_size=team.size)
    device = kind if kind == "cpu" else f"{kind}:{team.rank}"
    counts = config.samples, config.evaluation_samples
    dataset = data.load(config.data, samples=counts[0], evaluation_samples=counts[1], device=device)
    folder = RunFolder(path, config) if team.rank == 0 else _Onlooker(path, config)
    train(config, folder, dataset, line.send if team.rank == 0 else None, _Asked(line), team)


class _Onlooker(RunFolder):
    """The folder of a run, for processes that leave its files to the first one."""

    def write(self, name: str, contents: bytes) -> None:
        """Leave it to the first process."""


class _Asked:
    """A `Stop` with the same answer in all processes, asked by each after the same step."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def is_set(self) -> bool:
        """True if a process was asked to stop, or the one that started it is gone."""
        asked = torch.tensor(int(self._line.poll()))
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return bool(asked)
