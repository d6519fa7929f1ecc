"""Small networks to plan with, data that they mostly get right, and the error of a route, evaluated by itself."""

import torch

import iterconv as ic
from iterconv import paths


def make_net(stages=2, blocks=3):
    torch.manual_seed(0)
    return ic.models.resnet(width=4, blocks=blocks, stages=stages, in_channels=1, init="independent").eval()


def make_batches(net, n=120, size=20, noise=0.1):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    with torch.no_grad():
        labels = net(images).argmax(1)
    wrong = torch.rand(n, generator=generator) < noise
    labels = torch.where(wrong, torch.randint(10, (n,), generator=generator), labels)
    return list(zip(images.split(size), labels.split(size), strict=True))


def error(net, batches, route):
    with torch.no_grad():
        wrong = [
            outcome.output.argmax(1) != labels
            for images, labels in batches
            for _, outcome in paths.evaluate(net, [route], images)
        ]
    return torch.cat(wrong).float().mean().item()
