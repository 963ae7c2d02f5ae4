"""How the processes of a distributed run divide the work."""

from dataclasses import dataclass
from datetime import timedelta

import torch


@dataclass(frozen=True)
class ParallelOptions:
    """How the processes divide the work; none of this changes the result except by rounding.

    `context_parallel`: number of ranks that share one sequence (None: all); the others are replicas with
    other rows. `layout` None: chosen by the topology. `rows_at_once`: rows in one pass, whose gradients add
    up (None: all). `dtype`: of activations, gathered weights and those that are not trained; sums between
    ranks, trained weights and optimiser stay float32. `data_parallel_replicate`: groups of ranks that each
    hold all weights (HSDP); within a group they are sharded. `sync_gradients_once`: gradients are summed over
    ranks after the last pass of a batch, not after each. `keep`: number of checkpoints that are kept.
    `timeout`: for a message of another rank.
    """

    context_parallel: int | None = None
    layout: str | None = None
    ranks_per_node: int | None = None
    dtype: torch.dtype = torch.float32
    rows_at_once: int | None = None
    data_parallel_replicate: int = 1
    sync_gradients_once: bool = False
    keep: int = 2
    timeout: timedelta = timedelta(minutes=10)
