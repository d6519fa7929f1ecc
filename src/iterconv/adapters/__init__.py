"""Models that someone brings: found, driven and checked through their own modules."""

from iterconv.adapters.adapt import AdaptedModel, adapt, logits, next_token, next_tokens
from iterconv.adapters.finding import find_stages

__all__ = ["AdaptedModel", "adapt", "find_stages", "logits", "next_token", "next_tokens"]
