"""A rank's share of a batch: some of its rows, of each the tokens at the positions the rank holds."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from contextgraft.training.batches import Batch
from contextgraft.training.parallel.links import ContextParallel


class Share(NamedTuple):
    """Ids, the tokens that follow, what predicting those weighs and whether they are answers; positions.

    All (rows, held), the positions (held). The weights of a batch sum to 1.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    answers: torch.Tensor
    positions: torch.Tensor

    def on(self, device: torch.device) -> "Share":
        """The same on a device."""
        return Share._make(field.to(device) for field in self)

    def parts(self, rows: int | None) -> Iterator["Share"]:
        """So many rows at once; all of them without a number."""
        size = rows or len(self.ids)
        for start in range(0, len(self.ids), size):
            some = slice(start, start + size)
            yield self._replace(
                ids=self.ids[some],
                targets=self.targets[some],
                weights=self.weights[some],
                answers=self.answers[some],
            )


def share(batch: Batch, cp: ContextParallel, *, replica: int, replicas: int) -> Share:
    """What this rank computes of a batch; the shares of all ranks have the same shape.

    Targets are shifted before the sequence is cut. Sequences are padded on the right and rows repeated, with
    weight 0, to what the layout and the number of replicas divide. Weights are of the whole batch's mean.
    """
    rows, length = batch.ids.shape
    padded = length + -length % cp.layout.multiple
    weights = _wider(batch.weights[:, 1:], padded)
    held = cp.positions(padded)
    numbers = torch.arange(replica, rows + -rows % replicas, replicas)
    mine, real = numbers % rows, (numbers < rows)[:, None]
    return Share(
        _wider(batch.ids, padded)[mine][:, held],
        _wider(batch.ids[:, 1:], padded)[mine][:, held],
        (weights / weights.sum().clamp_min(1e-9))[mine][:, held] * real,
        (weights == 1)[mine][:, held] & real,
        held,
    )


def loss(model: torch.nn.Module, part: Share, cp: ContextParallel) -> tuple[torch.Tensor, int]:
    """The summand of the batch's mean cross-entropy in nats; how many of the part's answers are right."""
    positions = part.positions.expand(len(part.ids), -1)
    logits_BLV = model(
        input_ids=part.ids, position_ids=positions, use_cache=False, context_parallel=cp
    ).logits
    matters = part.weights > 0
    logits_NV, targets_N = logits_BLV[matters].float(), part.targets[matters]
    losses_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    right = (logits_NV.detach().argmax(-1) == targets_N)[part.answers[matters]]
    return (losses_N * part.weights[matters]).sum(), int(right.sum())


def _wider(x: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))
