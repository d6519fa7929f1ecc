"""Figures, of the paper and of single results, each a function from tables to a matplotlib figure."""
