"""Options that say how a model is opened and which data it sees; without torch, so that help is shown at once."""

from dataclasses import dataclass

from iterconv.options import Precision


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The weights and stages of a model, and the data that it sees."""

    data: str | None = None
    """The data: digits, mnist, cifar10, ..., a folder or file of images; for texts, a .txt, .csv, .jsonl or .parquet
    file."""
    weights: str = "pretrained"
    """For timm: pretrained, none (random), or a file with a state dict or with a smaller model that plan saved. For hf:
    pretrained or none. For cifar-resnet and module:function: a smaller model that plan saved."""
    stages: tuple[str, ...] = ()
    """The places of the model's blocks: layer1.1: (the children of layer1 from 1 on), blocks (all children), or block*5
    (one module that is executed five times). By default the blocks are searched."""
    examples: int = 1000
    """The largest number of examples to use."""
    batch_size: int = 64
    """The number of examples that are run at a time."""
    precision: Precision = "single"
    """The precision of the weights: single, double, half or bfloat16. Or bf16, for measure alone, also of runs: weights
    in single precision, multiplied in bfloat16 as by train --precision bf16."""
    device: str | None = None
    """The device: cpu, cuda, ...; by default the accelerator, if there is one."""
