"""The micro-batch of one rank: some rows of a batch, and of each row the tokens at the rank's positions."""

import torch

from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.micro_batch import MicroBatch, full_batch
from contextgraft.training.parallel.communication import ContextParallel


def shard_batch(
    batch: TokenBatch, cp: ContextParallel, *, replica: int, replicas: int
) -> tuple[MicroBatch, torch.Tensor]:
    """The rank's micro-batch and its positions; those of all ranks have the same shape.

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
    return MicroBatch(ids, targets, weights * real, answers & real, full.total_weight), positions
