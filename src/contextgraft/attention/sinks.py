"""Attention sinks: a learnt score of each head that takes its share of the softmax and has no value.

They enlarge the log-sum-exp over all keys and make the output smaller. The gradients of queries, keys and
values follow from this output and log-sum-exp as they do without sinks.
"""

import torch

from contextgraft.attention.kernels import AttentionResult


def add_sinks(out: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor) -> None:
    """Add sinks (H) in place to the output (B, H, L, D) and the log-sum-exps (B, H, L, 1) over all keys."""
    scores = sinks.to(lse.dtype)[:, None, None]
    out.mul_(torch.sigmoid(lse - scores))
    lse.copy_(torch.logaddexp(lse, scores))


def sink_gradients(sinks: torch.Tensor, dout: torch.Tensor, total: AttentionResult) -> torch.Tensor:
    """Gradient (H) of the sinks; `total` is the result with them.

    With a sink's share p of a query, the output changes by -p x output for each unit of its score.
    """
    shares = (sinks.to(total.lse.dtype)[:, None] - total.lse).exp()
    changes = (dout.to(total.lse.dtype) * total.out).sum(-1)
    return -(shares * changes).sum((0, 2)).to(sinks.dtype)
