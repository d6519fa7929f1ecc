"""One process of a team on the CPU: trains each of some runs with the others, and writes what came out.

    python shared_runs.py RANK SIZE FOLDER

Run as a script by test_devices.py, which compares it with runs of a single process. Everything has double precision,
so that a difference is a mistake and not rounding.
"""

import os
import sys
from pathlib import Path

import torch

from iterconv import data
from iterconv.training.config import RunConfig
from iterconv.training.folder import RunFolder
from iterconv.training.loop import train
from iterconv.training.team import ALONE, Team

SMALL = {"width": 4, "blocks": 3, "samples": 130, "epochs": 2}  # the last batch of an epoch has two images
RUNS = {
    "plain": RunConfig(**SMALL),
    "coupled by half": RunConfig(**SMALL, coupling=0.5, augment=True, stages=2),
    "tied": RunConfig(**SMALL, coupling=1.0),
    "improper": RunConfig(**SMALL, residual="improper", norm_scale=2.0, lr=0.02),
    "proper and coupled": RunConfig(**SMALL, residual="proper", coupling=0.5, stages=2),
}


class Doubled(data.Data):
    """A data set in double precision."""

    def normalise(self, images):
        return super().normalise(images).double()


class Unwritten(RunFolder):
    """A folder of a run into which nothing is written."""

    def write(self, name, contents):
        pass


def trained(config, team=ALONE):
    """The weights and statistics, and the history, that a run ends with."""
    dataset = Doubled(**vars(data.load("digits", samples=config.samples)))
    rows = []
    torch.set_default_dtype(torch.float64)
    try:
        network = train(config, Unwritten(Path("nowhere"), config), dataset, rows.append, team=team)
    finally:
        torch.set_default_dtype(torch.float32)
    return network.state_dict(), rows


def main(rank, size, folder):
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=rank, NODE_RANK="0")
    team = Team(int(rank), int(size))
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=team.rank, world_size=team.size)
    found = {name: trained(config, team) for name, config in RUNS.items()}
    torch.save(found, f"{folder}/{rank}.part")
    torch.distributed.barrier()
    os.rename(f"{folder}/{rank}.part", f"{folder}/{rank}.pt")
    os._exit(0)  # gloo may fail at an ordinary exit


if __name__ == "__main__":
    main(*sys.argv[1:])
