"""Low-rank factors of LoRA and DoRA as entries: the shape of their delta, and how it is loaded.

Legend of shape suffixes: M rows, N columns, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from contextgraft.adapter.lora.entries import AdapterEntry, ReplaceEntry

if TYPE_CHECKING:
    from contextgraft.adapter.lora.array_deltas import ArrayDelta, ReadFloats
    from contextgraft.adapter.lora.deltas import FactorPair, Read, TensorDelta


@dataclass(frozen=True)
class LowRankEntry(AdapterEntry):
    """scaling * B @ A on a weight; of an embedding the factors are those of the transposed weight."""

    key_A: str
    key_B: str
    embedding: bool
    magnitude: str | None  # key of DoRA's magnitudes (Liu et al. 2024): the norms of the result's rows

    @property
    @override
    def needs_model(self) -> bool:
        return self.magnitude is not None

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import DoraDelta, LowRankDelta, matched_rows

        left_MR, right_RN = self._factors(read)
        left_MR = matched_rows(left_MR, rows)
        if self.magnitude is None:
            return LowRankDelta(left_MR.contiguous(), right_RN.contiguous() * (self.scaling * scale))
        low_rank = LowRankDelta(left_MR, right_RN * self.scaling)
        return DoraDelta(low_rank, read(self.magnitude).reshape(-1), scale)

    @property
    @override
    def has_arrays(self) -> bool:
        return not self.needs_model

    @override
    def load_arrays(self, read: "ReadFloats", scale: float, rows: Sequence[int] | None) -> "ArrayDelta":
        from contextgraft.adapter.lora.array_deltas import low_rank_arrays

        factors = read(self.key_A), read(self.key_B)
        return low_rank_arrays(*factors, self.scaling * scale, rows, transposed=self.embedding)

    @override
    def product(self, read: "Read") -> "FactorPair | None":
        left_MR, right_RN = self._factors(read)
        return left_MR, right_RN * self.scaling

    def _factors(self, read: "Read") -> "FactorPair":
        A, B = read(self.key_A), read(self.key_B)
        return (A.T, B.T) if self.embedding else (B, A)


@dataclass(frozen=True)
class StackedEntry(LowRankEntry):
    """Factors of [experts, outputs, inputs]; `embedding` if the tensor is stored [experts, inputs, outputs].

    lora_A is [R x E, N], expert by expert; lora_B is [M, R x E], with the experts of a rank next to each
    other.
    """

    experts: int = 1

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import StackedDelta

        A, B = read(self.key_A), read(self.key_B)
        right_ERN = A.reshape(self.experts, -1, A.shape[1])
        left_EMR = B.reshape(len(B), -1, self.experts).permute(2, 0, 1)
        if self.embedding:
            left_EMR, right_ERN = right_ERN.transpose(1, 2), left_EMR.transpose(1, 2)
        return StackedDelta(left_EMR.contiguous(), right_ERN.contiguous() * (self.scaling * scale))

    @override
    def load_arrays(self, read: "ReadFloats", scale: float, rows: Sequence[int] | None) -> "ArrayDelta":
        from contextgraft.adapter.lora.array_deltas import stacked_arrays

        factors = read(self.key_A), read(self.key_B)
        return stacked_arrays(*factors, self.scaling * scale, self.experts, transposed=self.embedding)

    @override
    def product(self, read: "Read") -> "FactorPair | None":
        return None


@dataclass(frozen=True)
class RebasedEntry(LowRankEntry):
    """Factors together with the weight they are added to, which PEFT loads in place of the target's."""

    base_key: str
    replaces: ClassVar[bool] = True

    @property
    @override
    def needs_model(self) -> bool:
        return True

    @property
    def base(self) -> ReplaceEntry:
        """The entry that only replaces the target's weight by the stored one, without the factors."""
        return ReplaceEntry(self.shape, 1.0, self.base_key)

    @property
    def factors(self) -> LowRankEntry:
        """The entry that only adds the product of the factors."""
        return LowRankEntry(self.shape, self.scaling, self.key_A, self.key_B, self.embedding, self.magnitude)

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import RebasedDelta

        return RebasedDelta(self.base.load(read, scale, rows), self.factors.load(read, scale, rows))
