"""How many attention scores exist at the same time where no fused kernel computes them.

Plans read this without importing torch.
"""

SCORES = 2**24  # of all rows and heads: 64 MiB in float32
