"""Training data: sources, packing, batches."""
