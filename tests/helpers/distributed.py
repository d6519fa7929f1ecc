"""One process of a group on the CPU: trains a small net with coupling, and writes what came out.

    python distributed.py ddp|fsdp|fsdp1 RANK WORLD FOLDER

Run as a script by test_coupled_training.py, which judges by the files: gloo may fail at exit.
"""

import sys

import torch
from torch import nn

import iterconv as ic

STEPS, STRENGTH = 4, 0.5


class Block(nn.Module):
    """Without batch norm, whose statistics would depend on how a batch is shared out."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, z):
        return z + self.outer(torch.tanh(self.inner(z)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), *(Block() for _ in range(3)), nn.Linear(6, 4)).double()


def data(step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(4, (8,), generator=generator)


def optimizer_of(net):
    return torch.optim.AdamW(net.parameters(), lr=0.01)


def train(net, model, optimizer, share=slice(None)):
    """Steps on a share of each batch; ``model`` is ``net`` in whatever wrapper."""
    for step in range(STEPS):
        inputs, targets = data(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[share]), targets[share]).backward()
        optimizer.step()


def main(kind, rank, world, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=int(rank), world_size=int(world)
    )
    net = network()
    share = slice(int(rank), None, int(world))
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(net)
    elif kind == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (int(world),))
        for block in list(net)[1:4]:
            fully_shard(block, mesh=mesh)
        model = fully_shard(net, mesh=mesh)
    else:
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(net, use_orig_params=True, device_id=torch.device("cpu"))
    optimizer = optimizer_of(model)
    try:
        handle = ic.couple(optimizer, [list(net)[1:4]], STRENGTH)
        if kind == "fsdp":
            refuse_a_sharded_axis(net, optimizer, handle)
        train(net, model, optimizer, share)
        found = {name: getattr(p, "full_tensor", lambda p=p: p)().detach() for name, p in net.named_parameters()}
    except ic.InputError as problem:
        found = {"refused": str(problem)}
    torch.save(found, f"{folder}/{kind}-{rank}.part")
    torch.distributed.barrier()
    import os

    os.rename(f"{folder}/{kind}-{rank}.part", f"{folder}/{kind}-{rank}.pt")
    torch.distributed.destroy_process_group()


def refuse_a_sharded_axis(net, optimizer, handle):
    handle.remove()
    try:
        ic.couple_axis(optimizer, net[1].inner.weight, 0, STRENGTH)
        raise AssertionError("an axis over several processes was coupled")
    except ic.InputError as problem:
        assert "sharded along axis" in str(problem)
    ic.couple(optimizer, [list(net)[1:4]], STRENGTH)


if __name__ == "__main__":
    main(*sys.argv[1:])
