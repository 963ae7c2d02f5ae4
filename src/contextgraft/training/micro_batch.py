"""A part of a batch: the tokens that a process computes at once, and what follows each of them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from contextgraft.training.data.batches import Batch

TOKENS = 1024  # whose logits exist at one time, at least: work enough for a GPU
ENTRIES = 2**22  # more of them where the vocabulary is small: 16 MiB of logits in float32


class Part(NamedTuple):
    """Ids, the tokens that follow them, what predicting those weighs and whether they are answers.

    All (rows, tokens). `total`, a number, is the weight of the whole batch, which its sum is divided by.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    answers: torch.Tensor
    total: torch.Tensor

    def on(self, device: torch.device) -> "Part":
        """The same on a device."""
        return Part._make(field.to(device) for field in self)

    def split(self, rows: int | None) -> Iterator["Part"]:
        """So many rows at once; all of them without a number."""
        size = rows or len(self.ids)
        for start in range(0, len(self.ids), size):
            some = slice(start, start + size)
            yield Part._make([*(field[some] for field in self[:-1]), self.total])


def whole(batch: Batch, width: int | None = None) -> Part:
    """All of a batch, its rows filled on the right to `width` tokens, with weight 0."""
    width = width or batch.ids.shape[1]
    weights = _wider(batch.weights[:, 1:], width)
    return Part(
        _wider(batch.ids, width),
        _wider(batch.ids[:, 1:], width),
        weights,
        weights == 1,
        weights[weights > 0].sum().clamp_min(1e-9),
    )


def tokens_at_once(vocabulary: int) -> int:
    """Of how many tokens the logits exist at one time."""
    return max(TOKENS, ENTRIES // vocabulary)


def _wider(x: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))
