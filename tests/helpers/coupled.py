"""What tests of coupled training share: blocks, an optimizer, a model with its loss, and a comparison."""

import torch
from torch import nn


def blocks(net):
    return [list(net)[1:4]]


def assert_equal_nets(net, other, **tolerance):
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


class WithLoss(nn.Module):
    """A model as Hugging Face's Trainer takes them."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, inputs, labels):
        return {"loss": nn.functional.cross_entropy(self.net(inputs), labels)}
