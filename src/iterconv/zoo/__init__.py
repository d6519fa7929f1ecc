"""Models by name, each with the batches that it is measured on."""
