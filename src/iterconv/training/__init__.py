"""Training: a run's configuration, the loop, and the folder that a run lives in."""
