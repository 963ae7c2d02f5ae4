"""A tensor plus its deltas: by numpy, by PyTorch, and what is measured of it."""
