"""What tests of coupled training share: blocks, an optimizer, models for foreign trainers, and a comparison."""

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


def fit_with_lightning(net, make_optimizer, batches, **options):
    """Train a network with Lightning's trainer on the CPU; callbacks find it as the attribute ``net`` of the module."""
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return make_optimizer(self.net)

    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", **quiet, **options)
    trainer.fit(Module(), torch.utils.data.DataLoader(batches, batch_size=None))
