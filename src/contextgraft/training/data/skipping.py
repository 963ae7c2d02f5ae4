"""Position ids that skip: windows much shorter than the context that they train for.

PoSE (Zhu et al. 2024, arXiv 2309.10400): a window is cut into chunks, and each chunk is moved to later
positions, by as much as the chunk before it or more. docs/training.md has the definition.
"""

import numpy as np

SKIPPING = "pose"  # the recipe's `positions`


def skipping_positions(rng: np.random.Generator, length: int, target: int, chunks: int) -> np.ndarray:
    """Position ids (length,) int64 of one window: increasing, from 0, the last less than `target`.

    The boundaries are `chunks` - 1 different indices from 1 to `length` - 1. The first chunk is not moved;
    the offset of each other chunk is drawn from that of the chunk before it up to `target` - `length`. All
    draws are uniform.
    """
    boundaries = np.sort(rng.choice(np.arange(1, length), chunks - 1, replace=False))
    offsets = np.zeros(length, dtype=np.int64)
    offset = 0
    for boundary in boundaries:
        offset = int(rng.integers(offset, target - length, endpoint=True))
        offsets[boundary:] = offset
    return np.arange(length) + offsets
