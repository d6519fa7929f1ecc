"""Data sets as tensors: loaded by name or path, split with a seed, standardised and augmented on the device.

Imported on first use, as ``iterconv`` itself is: the table of known data sets needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
