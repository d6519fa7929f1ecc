"""The paper's figures, each a function from tables to a matplotlib figure."""
