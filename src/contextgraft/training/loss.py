"""The loss: cross-entropy of the next token, each token weighed."""

import torch

from contextgraft.training.batches import Batch


def weighted(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, int, int]:
    """Weighed mean of the cross-entropy in nats; how many tokens of weight 1 are right, and how many are."""
    logits_BLV = model(input_ids=batch.ids, use_cache=False).logits
    weights = batch.weights[:, 1:].reshape(-1)
    matters = weights > 0
    logits_NV = logits_BLV[:, :-1].reshape(-1, logits_BLV.shape[-1])[matters]
    targets_N = batch.ids[:, 1:].reshape(-1)[matters]
    weights_N = weights[matters]
    losses_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    answers = weights_N == 1
    right = int((logits_NV.detach().argmax(-1) == targets_N)[answers].sum())
    return (losses_N * weights_N).sum() / weights_N.sum().clamp_min(1e-9), right, int(answers.sum())
