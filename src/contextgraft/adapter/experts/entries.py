"""Factors of experts for a model that stores experts in another way: stacked in one, one by one in the other.

Legend of shape suffixes: M rows, N columns, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from contextgraft.adapter.lora.entries import AdapterEntry
from contextgraft.adapter.lora.low_rank import LowRankEntry

if TYPE_CHECKING:
    from contextgraft.adapter.lora.deltas import FactorPair, Read, TensorDelta


@dataclass(frozen=True)
class ExpertEntry(LowRankEntry):
    """One expert's matrix, or the rows of it from `start`, of factors as in `StackedEntry`."""

    experts: int = 1
    expert: int = 0
    start: int = 0

    @property
    @override
    def has_arrays(self) -> bool:
        return False

    @override
    def _factors(self, read: "Read") -> "FactorPair":
        A, B = read(self.key_A), read(self.key_B)
        right_RN = A.reshape(self.experts, -1, A.shape[1])[self.expert]
        left_MR = B.reshape(len(B), -1, self.experts)[..., self.expert]
        if self.embedding:
            left_MR, right_RN = right_RN.T, left_MR.T
        return left_MR[self.start : self.start + self.shape[0]], right_RN


@dataclass(frozen=True)
class ExpertBlock:
    """The factors of a block of rows: of one expert's matrix, from its row `start`."""

    expert: int
    start: int
    entry: LowRankEntry


@dataclass(frozen=True)
class ExpertBlocksEntry(AdapterEntry):
    """The factors of single experts for a tensor [experts, rows, columns] that stacks them."""

    blocks: tuple[ExpertBlock, ...]

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import BlocksDelta

        height = self.shape[1]
        return BlocksDelta(
            tuple(
                (
                    block.expert * height + block.start,
                    block.entry.shape[0],
                    block.entry.load(read, scale, None),
                )
                for block in self.blocks
            )
        )
