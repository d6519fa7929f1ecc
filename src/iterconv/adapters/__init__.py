"""Foreign models: their stages are found, driven and checked through the models' own modules."""

from iterconv.adapters.adapt import AdaptedModel, AdaptedStage, adapt
from iterconv.adapters.find import find_stages
from iterconv.tasks.base import logits
from iterconv.tasks.tokens import next_token, next_tokens

__all__ = ["AdaptedModel", "AdaptedStage", "adapt", "find_stages", "logits", "next_token", "next_tokens"]
