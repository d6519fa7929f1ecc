"""Options that say how a model is opened and what it sees; without torch, so that help is shown at once."""

from dataclasses import dataclass

from iterconv.options import Precision


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which weights and stages a model has, and the data that it sees."""

    data: str | None = None
    """digits, mnist, cifar10, ..., a folder or file of images; for texts, a .txt, .csv, .jsonl or .parquet file."""
    weights: str = "pretrained"
    """timm: pretrained, none (random), or a file, with a state dict or a smaller model that plan saved; hf: pretrained
    or none; module:function: a smaller model that plan saved."""
    stages: tuple[str, ...] = ()
    """Where the model's blocks are: layer1.1: (the children of layer1 from 1 on), blocks (all children), or block*5
    (one module that is executed five times). By default they are found by looking."""
    examples: int = 1000
    """How many examples of the data to use, at most."""
    batch_size: int = 64
    """Examples at a time."""
    precision: Precision = "single"
    """single, double, half or bfloat16."""
    device: str | None = None
    """cpu, cuda, ...; the accelerator that is there by default."""
