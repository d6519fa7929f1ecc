"""Models of known dynamics: stages of affine maps, whose states and spectral radii have closed forms."""

import math

import torch
from torch import nn

import iterconv as ic

CLASSES = 3


class Affine(nn.Module):
    """z -> A z + c."""

    def __init__(self, matrix, shift=0.0):
        super().__init__()
        self.matrix = nn.Parameter(torch.as_tensor(matrix, dtype=torch.float64))
        self.shift = nn.Parameter(torch.as_tensor(shift, dtype=torch.float64))

    def forward(self, z):
        return z @ self.matrix.T + self.shift


def rotation(angle, scale=1.0):
    return scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()


def iterated(*blocks):
    """A model of one stage whose output is linear in the state."""
    width = blocks[0].matrix.shape[0] if isinstance(blocks[0], Affine) else 2
    torch.manual_seed(0)
    return ic.StagedModel(nn.Identity(), [ic.Stage(blocks)], [], nn.Linear(width, CLASSES).double())


def states(count=12, width=2, seed=0):
    """States and labels."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return z, torch.arange(count) % CLASSES
