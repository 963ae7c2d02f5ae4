"""The share of one rank in a batch: some of its rows, and of each row the tokens at the rank's positions."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.micro_batch import MicroBatch, full_batch
from contextgraft.training.parallel.communication import ContextParallel


class BatchShard(NamedTuple):
    """Tokens of a rank, position ids of the same shape, and where documents begin in each whole row."""

    tokens: MicroBatch
    positions: torch.Tensor
    starts: tuple[tuple[int, ...], ...] | None = None

    def split(self, rows: int | None) -> Iterator["BatchShard"]:
        """Shards of at most `rows` rows; None keeps all rows in one."""
        size = rows or len(self.positions)
        positions = torch.split(self.positions, size)
        for number, (tokens, held) in enumerate(zip(self.tokens.split(rows), positions, strict=True)):
            first = number * size
            yield BatchShard(tokens, held, self.starts and self.starts[first : first + size])


def shard_batch(batch: TokenBatch, cp: ContextParallel, *, replica: int, replicas: int) -> BatchShard:
    """The rank's shard; those of all ranks have the same shape.

    Targets are shifted before the sequence is cut. Sequences are padded on the right to a multiple of the
    layout, and rows repeated to a multiple of the replicas, both with loss weight 0.
    """
    rows, length = batch.ids.shape
    padded = length + -length % cp.layout.multiple
    full = full_batch(batch, padded)
    held = cp.positions(padded)
    numbers = torch.arange(replica, rows + -rows % replicas, replicas)
    selected, real = numbers % rows, (numbers < rows)[:, None]
    ids, targets, weights, answers = (field[selected][:, held] for field in full[:-1])
    tokens = MicroBatch(ids, targets, weights * real, answers & real, full.total_weight)
    if batch.positions is None:
        return BatchShard(tokens, held.expand(len(ids), -1))
    positions = _continued(batch.positions, padded)[selected][:, held]
    starts = batch.starts and tuple(batch.starts[row] for row in selected.tolist())
    return BatchShard(tokens, positions, starts)


def _continued(position_ids: torch.Tensor, width: int) -> torch.Tensor:
    """Position ids of rows that are padded on the right to `width` tokens."""
    more = torch.arange(1, width - position_ids.shape[1] + 1)
    return torch.cat([position_ids, position_ids[:, -1:] + more], dim=1)
