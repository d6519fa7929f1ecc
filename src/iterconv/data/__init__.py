"""Data sets as tensors: loaded by name or path, split with a seed, standardised and augmented on the device."""

from iterconv.data.dataset import Data as Data
from iterconv.data.dataset import Split as Split
from iterconv.data.loading import load as load

__all__ = ["Data", "Split", "load"]
