"""Norms of linear operators, such as convolutions, for gradients too."""
