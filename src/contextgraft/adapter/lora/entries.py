"""What an adapter changes: an entry for each tensor of a model, known from the headers.

A kind of adapter is described by its entries: see `adapter.lora.kinds`. Entries import torch, with
`adapter.lora.deltas`, only when a delta is loaded, so that an adapter is checked without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

if TYPE_CHECKING:
    import torch

    from contextgraft.adapter.lora.array_deltas import ArrayDelta, ReadFloats
    from contextgraft.adapter.lora.deltas import FactorPair, Read, TensorDelta


@dataclass(frozen=True)
class AdapterEntry(ABC):
    """How an adapter changes one tensor of this shape; nothing is read yet. `scaling` is the config's."""

    shape: tuple[int, ...]
    scaling: float
    replaces: ClassVar[bool] = False  # the tensor is overwritten, whatever the model has there

    @property
    def needs_model(self) -> bool:
        """Whether the delta depends on the weights it is added to."""
        return self.replaces

    @property
    def has_arrays(self) -> bool:
        """Whether `load_arrays` gives the delta, so that a merge needs no PyTorch for it."""
        return False

    @property
    def token_rows(self) -> int:
        """For a tensor with a row for each token: the number of rows that the entry was made for."""
        return self.shape[0]

    def covers(self, row: int) -> bool:
        """Whether the entry gives the values of a row of its tensor, not only a change."""
        return self.replaces and row < self.token_rows

    @abstractmethod
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        """The delta times `scale`; `rows` is the entry's row for each row of the target, -1 for none.

        `read` gives float32 tensors on the device of the computation.
        """

    def load_arrays(self, read: "ReadFloats", scale: float, rows: Sequence[int] | None) -> "ArrayDelta":
        """As `load`, for numpy; only where `has_arrays`."""
        raise NotImplementedError

    def product(self, read: "Read") -> "FactorPair | None":  # noqa: ARG002
        """The delta as a product of two factors in float32, where it is one."""
        return None

    def dense(self, read: "Read") -> "torch.Tensor":
        """The whole delta in float64, for entries that do not need the model."""
        import torch

        from contextgraft.adapter.lora.array_deltas import matrix_shape

        zeros = torch.zeros(matrix_shape(self.shape))
        return self.load(read, 1.0, None).tile(zeros, 0, len(zeros), zeros.clone()).double()


@dataclass(frozen=True)
class AdditiveEntry(AdapterEntry):
    """scaling * a delta that is stored in full: of a norm, or of the bias that goes with lora_B."""

    key: str

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import FullDelta, as_rows, matched_rows

        return FullDelta(matched_rows(as_rows(read(self.key)), rows) * (self.scaling * scale))

    @property
    @override
    def has_arrays(self) -> bool:
        return True

    @override
    def load_arrays(self, read: "ReadFloats", scale: float, rows: Sequence[int] | None) -> "ArrayDelta":
        from contextgraft.adapter.lora.array_deltas import FullArray, matched_array_rows, matrix_shape

        whole = read(self.key) * (self.scaling * scale)
        return FullArray(matched_array_rows(whole.reshape(matrix_shape(whole.shape)), rows))

    @override
    def dense(self, read: "Read") -> "torch.Tensor":
        return read(self.key).double() * self.scaling


@dataclass(frozen=True)
class ReplaceEntry(AdapterEntry):
    """A whole tensor that replaces the target's own: modules_to_save, trained biases."""

    key: str
    replaces: ClassVar[bool] = True

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        import torch

        from contextgraft.adapter.lora.deltas import ReplaceDelta, as_rows

        table = as_rows(read(self.key))
        index = torch.tensor(range(len(table)) if rows is None else rows, device=table.device)
        return ReplaceDelta(table[index.clamp(min=0)], (index >= 0).float(), scale)


@dataclass(frozen=True)
class TokenRowsEntry(AdapterEntry):
    """Rows of single tokens that replace the target's own: PEFT's trainable_token_indices."""

    key: str
    indices: tuple[int, ...]
    replaces: ClassVar[bool] = True

    @property
    @override
    def token_rows(self) -> int:
        return max(self.indices) + 1

    @override
    def covers(self, row: int) -> bool:
        return row in self.indices

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import TokenRowsDelta

        stored = {row: position for position, row in enumerate(self.indices)}
        if rows is not None:
            stored = {row: stored[own] for row, own in enumerate(rows) if own in stored}
        return TokenRowsDelta(read(self.key), stored, scale)
