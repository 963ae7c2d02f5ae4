"""A rank's share of a batch: some of its rows, of each the tokens at the positions the rank holds."""

import torch

from contextgraft.training.data.batches import Batch
from contextgraft.training.micro_batch import Part, whole
from contextgraft.training.parallel.communication import ContextParallel


def share(batch: Batch, cp: ContextParallel, *, replica: int, replicas: int) -> tuple[Part, torch.Tensor]:
    """What this rank computes of a batch, and its positions; the shares of all ranks have the same shape.

    Targets are shifted before the sequence is cut. Sequences are padded on the right and rows repeated, with
    weight 0, to what the layout and the number of replicas divide.
    """
    rows, length = batch.ids.shape
    padded = length + -length % cp.layout.multiple
    all_ = whole(batch, padded)
    held = cp.positions(padded)
    numbers = torch.arange(replica, rows + -rows % replicas, replicas)
    mine, real = numbers % rows, (numbers < rows)[:, None]
    ids, targets, weights, answers = (field[mine][:, held] for field in all_[:-1])
    return Part(ids, targets, weights * real, answers & real, all_.total), held
