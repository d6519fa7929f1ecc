"""Small residual blocks that several tests put together, and batch norms that hide nothing."""

import torch
from torch import nn
from torch.nn import functional as F


def noisy(module, seed=0):
    """Random batch statistics and weights, so that nothing is 1 by chance or 0 by a custom of starting so."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.running_var, part.weight):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 2 + 0.2)
            part.running_mean.normal_(generator=generator)
    return module.eval()


class Residual(nn.Module):
    def __init__(self, branch, act=None, combine=None):
        super().__init__()
        self.branch, self.act, self.combine = branch, act or nn.Identity(), combine

    def forward(self, z):
        return self.act(z + self.branch(z))


class PreActivation(nn.Module):
    """The paper's block, without its type annotations, which a tracer's proxies don't satisfy in the tests."""

    def __init__(self, width):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))

    def branch(self, z):
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(z))))))

    def forward(self, z):
        return z + self.branch(z)


class InPlace(Residual):
    def forward(self, z):
        hidden = self.branch(z)
        F.relu_(hidden)
        return z + hidden
