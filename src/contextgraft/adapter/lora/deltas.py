"""What is added to one tensor, tile by tile, in float32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from contextgraft.adapter.lora.modules import Addition, Factors, Part, Replacement

Read = Callable[[str], torch.Tensor]


class Change(Protocol):
    """The delta of one adapter on one tensor."""

    def delta(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """Rows [start, stop) of the delta, given those rows of the tensor; `out` may hold them."""


@dataclass(frozen=True)
class LowRank:
    """left @ right; both float32, all scales in `right`."""

    left_MR: torch.Tensor
    right_RN: torch.Tensor

    def delta(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """Rows [start, stop)."""
        return torch.mm(self.left_MR[start:stop], self.right_RN, out=out)


@dataclass(frozen=True)
class Dora:
    """Weight-decomposed: rows of the sum are brought to the trained magnitudes; `scale` is on the whole."""

    low_rank: LowRank
    magnitude_M: torch.Tensor
    scale: float

    def delta(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """Rows [start, stop)."""
        moved = old + self.low_rank.delta(old, start, stop, out)
        factor_T = self.magnitude_M[start:stop] / torch.linalg.vector_norm(moved, dim=1)
        return torch.mul(moved.mul_(factor_T[:, None]).sub_(old), self.scale)


@dataclass(frozen=True)
class Whole:
    """A delta that was kept whole."""

    rows: torch.Tensor

    def delta(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """Rows [start, stop)."""
        return out.copy_(self.rows[start:stop])


@dataclass(frozen=True)
class Replaced:
    """The way from the target's tensor to another one; `known` tells rows that the other one has."""

    rows: torch.Tensor
    known: torch.Tensor
    scale: float

    def delta(self, old: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """Rows [start, stop)."""
        return (self.rows[start:stop] - old) * self.scale * self.known[start:stop, None]


def change(part: Part, read: Read, scale: float, rows: Sequence[int] | None, device: str) -> Change:
    """The delta of a part times `scale`; `rows` says which of its rows stands for each of the target's.

    `read(key)` gives a tensor of the adapter.
    """

    def on_device(key: str) -> torch.Tensor:
        return read(key).to(device, torch.float32)

    match part:
        case Factors():
            return _factors(part, on_device, scale, rows)
        case Addition():
            return Whole(_as_rows(on_device(part.key)) * (part.scaling * scale))
        case Replacement():
            table = _as_rows(on_device(part.key))
            index = torch.tensor(range(len(table)) if rows is None else rows, device=device)
            return Replaced(table[index.clamp(min=0)], (index >= 0).float(), scale)


def _factors(part: Factors, read: Read, scale: float, rows: Sequence[int] | None) -> Change:
    A, B = read(part.key_A), read(part.key_B)
    left_MR, right_RN = (A.T, B.T) if part.embedding else (B, A)
    if rows is not None:
        index = torch.tensor(rows, device=left_MR.device)
        left_MR = torch.where(index[:, None] >= 0, left_MR[index.clamp(min=0)], 0.0)
    if part.magnitude is None:
        return LowRank(left_MR.contiguous(), right_RN.contiguous() * (part.scaling * scale))
    low_rank = LowRank(left_MR, right_RN * part.scaling)
    return Dora(low_rank, read(part.magnitude).reshape(-1), scale)


def _as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Two dimensions: a vector is a column."""
    return tensor.reshape(len(tensor), -1) if tensor.ndim else tensor.reshape(1, 1)
