"""Attention whose scores have a soft cap, cap * tanh(score / cap), which PyTorch's fused kernels do not take.

Scores are computed for some queries and some keys at a time, in float32 or wider, by operators that every
device has; the results of all keys are merged by log-sum-exp. So memory does not grow with the square of the
length. Query heads that share keys and values are computed as further queries of one head: nothing is
repeated, and the gradients of keys and values are sums over these heads.
"""

from collections.abc import Iterator
from functools import partial
from math import isqrt
from typing import NamedTuple

import torch

from contextgraft.attention.kernels import (
    AttentionBlock,
    AttentionGradients,
    AttentionKernel,
    AttentionResult,
    merge,
)
from contextgraft.attention.score_limit import SCORES


class _Piece(NamedTuple):
    """Indices of queries and of keys in a block; with `causal` they are the same, and a triangle is seen."""

    queries: slice
    keys: slice
    causal: bool


def soft_capped(cap: float, scores: int = SCORES) -> AttentionKernel:
    """The kernel of attention with this soft cap; at most `scores` scores exist at a time."""
    return AttentionKernel(
        partial(_forward, cap=cap, limit=scores), partial(_backward, cap=cap, limit=scores)
    )


def _forward(block: AttentionBlock, *, cap: float, limit: int) -> AttentionResult:
    out = torch.zeros_like(block.q, dtype=_wide(block.q))
    lse = torch.full_like(out[..., :1], float("-inf"))
    for piece in _pieces(block, limit):
        merge(out[:, :, piece.queries], lse[:, :, piece.queries], *_attend(piece, block, cap))
    return AttentionResult(out, lse.squeeze(-1))


def _attend(piece: _Piece, block: AttentionBlock, cap: float) -> AttentionResult:
    """Output and log-sum-exp (B, H, L, 1) of the queries of a piece."""
    q, k, v = _inputs(piece, block)
    scores = _hide_future(piece, _ratios(q, k, block.scale / cap).mul_(cap))
    lse = scores.logsumexp(-1, keepdim=True)
    out = scores.sub_(lse).exp_() @ v
    return AttentionResult(*(_with_heads(x, block.q.shape[1]) for x in (out, lse)))


def _backward(
    block: AttentionBlock, dout: torch.Tensor, total: AttentionResult, *, cap: float, limit: int
) -> AttentionGradients:
    sums = AttentionGradients(*(torch.zeros_like(x, dtype=_wide(x)) for x in block[:3]))
    means = (dout.to(_wide(dout)) * total.out).sum(-1, keepdim=True)
    for piece in _pieces(block, limit):
        of_queries = [
            _with_heads(x[:, :, piece.queries].to(_wide(x)), block.k.shape[1])
            for x in (dout, means, total.lse.unsqueeze(-1))
        ]
        _add_gradients(sums, piece, block, of_queries, cap)
    return sums


def _add_gradients(
    sums: AttentionGradients, piece: _Piece, block: AttentionBlock, of_queries: list[torch.Tensor], cap: float
) -> None:
    """Add those of a piece; `of_queries`: dout, its mean product with the values, and the log-sum-exp.

    The derivative of a capped score is 1 - (capped score / cap)^2.
    """
    q, k, v = _inputs(piece, block)
    dout, means, lse = of_queries
    ratios = _ratios(q, k, block.scale / cap)
    probabilities = _hide_future(piece, ratios * cap).sub_(lse).exp_()
    sums.v[:, :, piece.keys] += probabilities.mT @ dout
    dscores = (dout @ v.mT).sub_(means).mul_(probabilities)
    dscores.mul_(ratios.square_().neg_().add_(1)).mul_(block.scale)
    sums.q[:, :, piece.queries] += _with_heads(dscores @ k, block.q.shape[1])
    sums.k[:, :, piece.keys] += dscores.mT @ q


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _pieces(block: AttentionBlock, limit: int) -> Iterator[_Piece]:
    """Squares that cover what is seen of a block, of at most `limit` scores over all rows and heads."""
    rows, heads, queries, _ = block.q.shape
    keys = block.k.shape[2]
    side = max(1, isqrt(limit // (rows * heads)))
    for first_query in range(0, queries, side):
        for first_key in range(0, first_query + 1 if block.causal else keys, side):
            yield _Piece(
                slice(first_query, min(first_query + side, queries)),
                slice(first_key, min(first_key + side, keys)),
                block.causal and first_key == first_query,
            )


def _inputs(piece: _Piece, block: AttentionBlock) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of a piece in float32 or wider, with the heads of keys and values."""
    q, k, v = (
        x[:, :, some].to(_wide(x))
        for x, some in ((block.q, piece.queries), (block.k, piece.keys), (block.v, piece.keys))
    )
    return _with_heads(q, k.shape[1]), k, v


def _ratios(q: torch.Tensor, k: torch.Tensor, factor: float) -> torch.Tensor:
    """Capped scores divided by the cap; `factor` is the scale of the scores divided by the cap."""
    return (q @ k.mT).mul_(factor).tanh_()


def _hide_future(piece: _Piece, scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, K, H / K x queries, keys), in place minus infinity for keys after the query."""
    if piece.causal:
        keys = scores.shape[-1]
        future = torch.ones(keys, keys, dtype=torch.bool, device=scores.device).triu(1)
        scores.view(*scores.shape[:2], -1, keys, keys).masked_fill_(future, float("-inf"))
    return scores


def _with_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, H, L, D) -> (B, heads, L x H / heads, D): query heads as further queries of KV heads, or back."""
    return x.reshape(len(x), heads, -1, x.shape[-1])
