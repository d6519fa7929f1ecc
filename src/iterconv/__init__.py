"""iterconv measures how iterative and how convergent a residual network is, and trains networks to be more so.

Everything here is imported on first use, so that the command line answers at once and measuring needs
torch, numpy and pandas only. What there is stands in ``__init__.pyi``.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
