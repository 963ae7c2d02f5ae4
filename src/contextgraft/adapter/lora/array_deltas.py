"""Deltas that numpy computes: products of factors, and deltas that are stored in full.

Others are in `adapter.lora.deltas`. Legend of shape suffixes: M rows, N columns, R rank, E experts stacked in
one tensor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from typing_extensions import override

from contextgraft.checkpoint.arrays import Floats

ReadFloats = Callable[[str], Floats]  # a tensor of the adapter by its key


class ArrayDelta(Protocol):
    """What one adapter adds to one tensor, whatever the tensor holds; its factors are in memory."""

    def tile(self, start: int, stop: int, out: Floats) -> Floats:
        """Write rows [start, stop) of the delta into `out`."""


@dataclass(frozen=True)
class FullArray(ArrayDelta):
    """A delta that is in memory as a whole."""

    rows: Floats

    @override
    def tile(self, start: int, stop: int, out: Floats) -> Floats:
        np.copyto(out, self.rows[start:stop])
        return out


@dataclass(frozen=True)
class LowRankArrays(ArrayDelta):
    """left @ right; all scales in `right`."""

    left_MR: Floats
    right_RN: Floats

    @override
    def tile(self, start: int, stop: int, out: Floats) -> Floats:
        return np.matmul(self.left_MR[start:stop], self.right_RN, out=out)


@dataclass(frozen=True)
class StackedArrays(ArrayDelta):
    """left @ right of each expert, one below the other; all scales in `right`."""

    left_EMR: Floats
    right_ERN: Floats

    @override
    def tile(self, start: int, stop: int, out: Floats) -> Floats:
        rows = self.left_EMR.shape[1]
        for expert in range(start // rows, -(-stop // rows)):
            first, last = max(start, expert * rows), min(stop, (expert + 1) * rows)
            left_TR = self.left_EMR[expert, first - expert * rows : last - expert * rows]
            np.matmul(left_TR, self.right_ERN[expert], out=out[first - start : last - start])
        return out


def chosen_rows(left_MR: Floats, rows: Sequence[int] | None) -> Floats:
    """Contiguous rows of a factor, one for each of the result's rows; -1 for a row of zeros, None for all."""
    if rows is not None:
        index = np.asarray(rows)
        left_MR = np.where(index[:, None] >= 0, left_MR[np.maximum(index, 0)], np.float32(0))
    return np.ascontiguousarray(left_MR)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix: a vector is a column, a scalar one element.

    All dimensions but the last of three or more are rows.
    """
    if len(shape) > 2:
        return math.prod(shape[:-1]), shape[-1]
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)
