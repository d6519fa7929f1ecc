"""The idea of the package: a perturbation is a path, and a prefix tree evaluates paths.

``contract.py`` says what a model has to be, ``families.py`` what a perturbation is, and ``damping.py`` how a path takes
parts of steps. ``evaluate.py`` evaluates many paths together, and ``untouched.py`` makes evaluation leave no trace.

Names are imported on first use, so that the command line names the families without torch; ``__init__.pyi`` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
