"""Micro-batches: the rows of a batch that a process computes in one pass, with shifted targets."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from contextgraft.training.data.batches import TokenBatch


class MicroBatch(NamedTuple):
    """Token ids, next-token targets, loss weight of each prediction, and whether the target is an answer.

    All have the shape (rows, tokens). `total_weight` is a scalar: the loss weight of the whole batch, by
    which the sum of losses is divided.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    answers: torch.Tensor
    total_weight: torch.Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        """The same micro-batch on another device."""
        return MicroBatch._make(field.to(device) for field in self)

    def split(self, rows: int | None) -> Iterator["MicroBatch"]:
        """Micro-batches of at most `rows` rows; None keeps all rows in one."""
        size = rows or len(self.ids)
        for start in range(0, len(self.ids), size):
            selected = slice(start, start + size)
            yield MicroBatch._make([*(field[selected] for field in self[:-1]), self.total_weight])


def full_batch(batch: TokenBatch, width: int | None = None) -> MicroBatch:
    """The whole batch as one micro-batch, padded on the right to `width` tokens with loss weight 0."""
    width = width or batch.ids.shape[1]
    weights = _pad_right(batch.weights[:, 1:], width)
    return MicroBatch(
        ids=_pad_right(batch.ids, width),
        targets=_pad_right(batch.ids[:, 1:], width),
        weights=weights,
        answers=weights == 1,
        total_weight=weights[weights > 0].sum().clamp_min(1e-9),
    )


def _pad_right(x: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))
