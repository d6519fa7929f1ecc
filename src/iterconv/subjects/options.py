"""What a user says of a model and its data; without torch, so that help is shown at once."""

from dataclasses import dataclass

from iterconv.options import Precision


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What to measure or plan a model on."""

    data: str | None = None
    """digits, mnist, cifar10, ..., a folder or file of images; for texts, a .txt, .csv, .jsonl or .parquet file."""
    weights: str = "pretrained"
    """timm and hf: pretrained, none (random), or, for timm, a file with a state dict."""
    stages: tuple[str, ...] = ()
    """Runs of blocks, as layer1.1:, blocks, or block*5 for one that is executed five times; found by default."""
    examples: int = 1000
    """How many examples of the data, at most."""
    batch_size: int = 64
    """Examples at a time."""
    precision: Precision = "single"
    """single, double, half or bfloat16."""
    device: str | None = None
    """cpu, cuda, ...; the accelerator that is there by default."""
