"""What an output means: targets, rows, units, errors, chance, loss."""
