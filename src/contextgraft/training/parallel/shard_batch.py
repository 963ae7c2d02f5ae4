"""The micro-batch of one rank: some rows of a batch, and of each row the tokens at the rank's positions."""

import torch

from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.micro_batch import MicroBatch, full_batch
from contextgraft.training.parallel.communication import ContextParallel


def shard_batch(
    batch: TokenBatch, cp: ContextParallel, *, replica: int, replicas: int
) -> tuple[MicroBatch, torch.Tensor]:
    """The rank's micro-batch and its position ids, of its shape; those of all ranks have the same shape.

    Targets are shifted before the sequence is cut. Sequences are padded on the right to a multiple of the
    layout, and rows repeated to a multiple of the replicas, both with loss weight 0.
    """
    rows, length = batch.ids.shape
    padded = length + -length % cp.layout.multiple
    full = full_batch(batch, padded)
    positions = cp.positions(padded)
    numbers = torch.arange(replica, rows + -rows % replicas, replicas)
    selected, real = numbers % rows, (numbers < rows)[:, None]
    ids, targets, weights, answers = (field[selected][:, positions] for field in full[:-1])
    shard = MicroBatch(ids, targets, weights * real, answers & real, full.total_weight)
    if batch.positions is None:
        return shard, positions.expand(len(ids), -1)
    return shard, _continued(batch.positions, padded)[selected][:, positions]


def _continued(position_ids: torch.Tensor, width: int) -> torch.Tensor:
    """Position ids of rows that are padded on the right to `width` tokens."""
    more = torch.arange(1, width - position_ids.shape[1] + 1)
    return torch.cat([position_ids, position_ids[:, -1:] + more], dim=1)
