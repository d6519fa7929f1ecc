"""The idea: a perturbation is a path, and a prefix tree evaluates paths.

What a model has to be (``contract.py``), what a perturbation is (``families.py``), how many paths are evaluated
together (``evaluate.py``), and how evaluation leaves no trace (``untouched.py``).

Names are imported on first use, so that the command line names the families without torch; they stand in
``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
