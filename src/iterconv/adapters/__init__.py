"""Foreign models: their stages are found, driven and checked through the models' own modules.

``find.py`` searches the stages in the calls of modules (``calls.py``) and in the tensors that these hand on
(``streams.py``); ``named.py`` takes them from the user. ``drive.py`` executes a path in a pass of the whole model.
``recording.py`` is the faster way, in which paths share beginnings, and ``leaks.py`` and ``prove.py`` tell where it is
right.
``adapt.py`` joins all of it, ``staged.py`` applies it to the first of the user's batches, and ``rebuild.py`` makes
smaller models, whose configurations ``configurations.py`` brings in line.
"""

from iterconv.adapters.adapt import AdaptedModel, AdaptedStage, adapt
from iterconv.adapters.find import find_stages
from iterconv.tasks.base import logits
from iterconv.tasks.tokens import next_token, next_tokens

__all__ = ["AdaptedModel", "AdaptedStage", "adapt", "find_stages", "logits", "next_token", "next_tokens"]
