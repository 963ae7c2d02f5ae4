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

from contextgraft.adapter.compute.arrays import Floats

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


def low_rank_arrays(
    A: Floats, B: Floats, scale: float, rows: Sequence[int] | None, *, transposed: bool
) -> LowRankArrays:
    """The product scale * B @ A, or its transpose; `rows` as in `AdapterEntry.load`."""
    left_MR, right_RN = (A.T, B.T) if transposed else (B, A)
    left_MR = matched_array_rows(left_MR, rows)
    return LowRankArrays(np.ascontiguousarray(left_MR), np.ascontiguousarray(right_RN) * scale)


def stacked_arrays(A: Floats, B: Floats, scale: float, experts: int, *, transposed: bool) -> StackedArrays:
    """The product scale * B @ A of each expert, or its transpose; A is [R x E, N], B [M, R x E]."""
    right_ERN = A.reshape(experts, -1, A.shape[1])
    left_EMR = B.reshape(len(B), -1, experts).transpose(2, 0, 1)
    if transposed:
        left_EMR, right_ERN = right_ERN.transpose(0, 2, 1), left_EMR.transpose(0, 2, 1)
    return StackedArrays(np.ascontiguousarray(left_EMR), np.ascontiguousarray(right_ERN) * scale)


def matched_array_rows(table: Floats, rows: Sequence[int] | None) -> Floats:
    """The row of a matrix for each row of the target, zero for -1; all rows as they are for None."""
    if rows is None:
        return table
    index = np.asarray(rows)
    return np.where(index[:, None] >= 0, table[np.maximum(index, 0)], np.float32(0))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix: a vector is a column, a scalar one element.

    All dimensions but the last of three or more are rows.
    """
    if len(shape) > 2:
        return math.prod(shape[:-1]), shape[-1]
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)
