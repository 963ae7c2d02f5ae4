"""Inner products and threads of numpy, for what is computed without PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from contextgraft.adapter.compute.arrays import Floats

PIECE = 4096  # elements summed in float32; their sums are added in float64


def inner(left: Floats, right: Floats) -> float:
    """Sum of the products of two contiguous float32 arrays of one size."""
    left, right = left.reshape(-1), right.reshape(-1)
    whole = len(left) // PIECE * PIECE
    pieces = np.vecdot(left[:whole].reshape(-1, PIECE), right[:whole].reshape(-1, PIECE))
    rest = np.dot(left[whole:].astype(np.float64), right[whole:].astype(np.float64))
    return float(pieces.sum(dtype=np.float64)) + float(rest)


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Keep numpy's matrix products in the calling thread: the bytes of a product depend on its division."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
