"""What adapters add to tensors: deltas with their factors in memory, computed in tiles of rows.

Legend of shape suffixes: M rows, N columns, R rank, T rows of a tile, E experts stacked in one tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from typing_extensions import override

from contextgraft.adapter.lora.array_deltas import matrix_shape

Read = Callable[[str], torch.Tensor]  # a tensor of the adapter by its key
FactorPair = tuple[torch.Tensor, torch.Tensor]  # left [M, R] and right [R, N] of left @ right


class TensorDelta(Protocol):
    """What one adapter adds to one tensor, in float32; its factors are in memory."""

    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """Rows [start, stop) of the delta, given those rows of the tensor; may be written into `out`."""


@dataclass(frozen=True)
class FullDelta(TensorDelta):
    """A delta that is in memory as a whole."""

    rows: torch.Tensor

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(self.rows[start:stop])


@dataclass(frozen=True)
class ReplaceDelta(TensorDelta):
    """The difference to a tensor that replaces the target's; `known` is 1 for the rows that it has."""

    rows: torch.Tensor
    known: torch.Tensor
    scale: float

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        return (self.rows[start:stop] - old) * self.scale * self.known[start:stop, None]


@dataclass(frozen=True)
class TokenRowsDelta(TensorDelta):
    """The difference to single rows that replace the target's; `stored` has the table's row for each."""

    table: torch.Tensor
    stored: Mapping[int, int]
    scale: float

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        out.zero_()
        for row, position in self.stored.items():
            if start <= row < stop:
                out[row - start] = (self.table[position] - old[row - start]) * self.scale
        return out


@dataclass(frozen=True)
class RebasedDelta(TensorDelta):
    """The difference to another weight, plus the delta of the factors that are added to it."""

    base: TensorDelta
    low_rank: TensorDelta

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        difference = self.base.tile(old, start, stop, torch.empty_like(old))
        return self.low_rank.tile(old + difference, start, stop, out).add_(difference)


@dataclass(frozen=True)
class LowRankDelta(TensorDelta):
    """left @ right; both float32, all scales in `right`."""

    left_MR: torch.Tensor
    right_RN: torch.Tensor

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        return torch.mm(self.left_MR[start:stop], self.right_RN, out=out)


@dataclass(frozen=True)
class StackedDelta(TensorDelta):
    """left @ right of each expert, one below the other; all scales in `right`."""

    left_EMR: torch.Tensor
    right_ERN: torch.Tensor

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        rows = self.left_EMR.shape[1]
        for expert in range(start // rows, -(-stop // rows)):
            first, last = max(start, expert * rows), min(stop, (expert + 1) * rows)
            left_TR = self.left_EMR[expert, first - expert * rows : last - expert * rows]
            torch.mm(left_TR, self.right_ERN[expert], out=out[first - start : last - start])
        return out


@dataclass(frozen=True)
class BlocksDelta(TensorDelta):
    """Deltas of blocks of rows, each with its first row and number of rows; zero elsewhere."""

    blocks: tuple[tuple[int, int, TensorDelta], ...]

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        out.zero_()
        for begin, rows, delta in self.blocks:
            first, last = max(start, begin), min(stop, begin + rows)
            if first < last:
                within = slice(first - start, last - start)
                out[within] = delta.tile(old[within], first - begin, last - begin, out[within].clone())
        return out


@dataclass(frozen=True)
class DoraDelta(TensorDelta):
    """Weight-decomposed: rows of the sum are brought to the trained magnitudes; `scale` is on the whole."""

    low_rank: LowRankDelta
    magnitude_M: torch.Tensor
    scale: float

    @override
    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        moved = old + self.low_rank.tile(old, start, stop, out)
        factor_T = self.magnitude_M[start:stop] / torch.linalg.vector_norm(moved, dim=1)
        return torch.mul(moved.mul_(factor_T[:, None]).sub_(old), self.scale)


def matched_rows(table: torch.Tensor, rows: Sequence[int] | None) -> torch.Tensor:
    """The row of a matrix for each row of the target, zero for -1; all rows as they are for None."""
    if rows is None:
        return table
    index = torch.tensor(rows, device=table.device)
    return torch.where(index[:, None] >= 0, table[index.clamp(min=0)], 0.0)


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a matrix of the same rows."""
    return tensor.reshape(matrix_shape(tuple(tensor.shape)))
