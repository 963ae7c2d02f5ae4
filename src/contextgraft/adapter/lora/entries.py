"""What an adapter changes: an entry for each tensor of a model, known from the headers; its delta in tiles.

A kind of adapter is described by its entries: see `adapter.lora.kinds`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from typing_extensions import override

Read = Callable[[str], torch.Tensor]  # a tensor of the adapter by its key
FactorPair = tuple[torch.Tensor, torch.Tensor]  # left [M, R] and right [R, N] of left @ right


class TensorDelta(Protocol):
    """What one adapter adds to one tensor, in float32; its factors are in memory."""

    def tile(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """Rows [start, stop) of the delta, given those rows of the tensor; may be written into `out`."""


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

    @abstractmethod
    def load(self, read: Read, scale: float, rows: Sequence[int] | None) -> TensorDelta:
        """The delta times `scale`; `rows` is the entry's row for each row of the target, -1 for none.

        `read` gives float32 tensors on the device of the computation.
        """

    def product(self, read: Read) -> FactorPair | None:  # noqa: ARG002
        """The delta as a product of two factors in float32, where it is one."""
        return None

    def dense(self, read: Read) -> torch.Tensor:
        """The whole delta in float64, for entries that do not need the model."""
        zeros = torch.zeros(_two_dimensions(self.shape))
        return self.load(read, 1.0, None).tile(zeros, 0, len(zeros), zeros.clone()).double()


@dataclass(frozen=True)
class AdditiveEntry(AdapterEntry):
    """scaling * a delta that is stored in full: of a norm, or of the bias that goes with lora_B."""

    key: str

    @override
    def load(self, read: Read, scale: float, rows: Sequence[int] | None) -> TensorDelta:
        return FullDelta(_as_rows(read(self.key)) * (self.scaling * scale))

    @override
    def dense(self, read: Read) -> torch.Tensor:
        return read(self.key).double() * self.scaling


@dataclass(frozen=True)
class ReplaceEntry(AdapterEntry):
    """A whole tensor that replaces the target's own: modules_to_save, trained biases."""

    key: str
    replaces: ClassVar[bool] = True

    @override
    def load(self, read: Read, scale: float, rows: Sequence[int] | None) -> TensorDelta:
        table = _as_rows(read(self.key))
        index = torch.tensor(range(len(table)) if rows is None else rows, device=table.device)
        return ReplaceDelta(table[index.clamp(min=0)], (index >= 0).float(), scale)


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


def _two_dimensions(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], int(torch.Size(shape[1:]).numel())) if shape else (1, 1)


def _as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Two dimensions: a vector is a column."""
    return tensor.reshape(_two_dimensions(tuple(tensor.shape)))
