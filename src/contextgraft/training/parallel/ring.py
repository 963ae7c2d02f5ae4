"""Exact causal attention over a sequence that lies on many ranks: a ring within a ring, forward and backward.

Blocks of keys and values travel; each rank attends its queries to what passes and merges by log-sum-exp
(Liu et al. 2023, arXiv 2310.01889; layered rings after Gu et al. 2024, LoongTrain, arXiv 2406.18485).
The next blocks are on their way while the present one is computed. Sums are kept in float32 or wider.
"""

from collections.abc import Iterator
from typing import Any

import torch

from contextgraft.training.parallel.attention_kernels import Block, Result
from contextgraft.training.parallel.communication import GRADIENT, KV, ContextParallel, Hop, How, exchange
from contextgraft.training.parallel.layout import TORCH
from contextgraft.training.parallel.torch_ring import TorchRing

Slices = tuple[slice, slice, bool]
ALL = slice(None)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cp: ContextParallel, scale: float
) -> torch.Tensor:
    """Attention of this rank's queries (B, H, L, D) on the keys and values (B, K, L, D) of all ranks."""
    if cp.layout.name == TORCH:
        return TorchRing.apply(q, k, v, How(cp, scale))  # type: ignore[no-untyped-call, no-any-return]
    if cp.heads.size == 1:
        return _Ring.apply(q, k, v, How(cp, scale))  # type: ignore[no-untyped-call, no-any-return]
    q, k, v = (_HeadsApart.apply(x, cp) for x in (q, k, v))  # type: ignore[no-untyped-call]
    return _HeadsTogether.apply(_Ring.apply(q, k, v, How(cp, scale)), cp)  # type: ignore[no-untyped-call, no-any-return]


def visible(source: int, part: int, half: int) -> Slices:
    """Which queries see which keys of the block from `source`, and whether causally inside.

    Zig-zag parts: of an earlier part the front half is seen by all queries; a later part is seen whole by
    the back half of the queries.
    """
    if source == part:
        return ALL, ALL, True
    return (ALL, slice(0, half), False) if source < part else (slice(half, None), ALL, False)


def walk(cp: ContextParallel, kv: torch.Tensor) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """(turn of the outer ring, turn of the inner ring, whose block, block); the next one is under way."""
    for out in range(cp.outer.size):
        across = Hop(cp.outer, kv, KV) if out + 1 < cp.outer.size else None
        block = kv
        for turn in range(cp.inner.size):
            round_ = Hop(cp.inner, block, KV) if turn + 1 < cp.inner.size else None
            node = (cp.outer.place - out) % cp.outer.size
            yield out, turn, node * cp.inner.size + (cp.inner.place - turn) % cp.inner.size, block
            block = round_.wait() if round_ else block
        kv = across.wait() if across else kv


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: How) -> torch.Tensor:
        cp, half, wide = how.cp, q.shape[2] // 2, torch.promote_types(q.dtype, torch.float32)
        out = lse = torch.empty(0)
        for _, _, source, (key, value) in walk(cp, torch.stack([k, v])):
            queries, keys, causal = visible(source, cp.part, half)
            block = Block(q[:, :, queries], key[:, :, keys], value[:, :, keys], causal, how.scale)
            part = cp.kernel.forward(block)
            part_out, part_lse = part.out.to(wide), part.lse.to(wide).unsqueeze(-1)
            if source == cp.part:  # the first, always
                out, lse = part_out, part_lse
            else:
                merge(out[:, :, queries], lse[:, :, queries], part_out, part_lse)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.squeeze(-1))
        ctx.how = how
        return out

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *whole = ctx.saved_tensors
        cp, dout = ctx.how.cp, dout.contiguous()
        dq = torch.zeros_like(q, dtype=torch.promote_types(q.dtype, torch.float32))
        home = kept = torch.empty(0)
        across: Hop | None = None
        travelling: Hop | None = None
        for turn_out, turn, source, kv in walk(cp, torch.stack([k, v])):
            dkv = _block_gradients(ctx.how, source, kv, q, dout, Result(*whole), dq)
            # The gradient of a block moves with it, one turn behind, and ends where the block came from.
            if turn == 0:
                kept = dkv
            else:
                travelling = Hop(cp.inner, dkv.add_(travelling.wait()) if travelling else dkv, GRADIENT)
            if turn + 1 < cp.inner.size:
                continue
            kept = kept.add_(travelling.wait()) if travelling else kept
            travelling = None
            if turn_out == 0:
                home = kept
            else:
                across = Hop(cp.outer, kept.add_(across.wait()) if across else kept, GRADIENT)
        home = home.add_(across.wait()) if across else home
        return dq.to(q.dtype), home[0].to(k.dtype), home[1].to(v.dtype), None


def merge(out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor) -> None:
    """Add another block's attention in place: the weights of both are their shares of the softmax."""
    out.add_(torch.sigmoid(part_lse - lse) * (part - out))
    lse.copy_(torch.logaddexp(lse, part_lse))


def _block_gradients(  # noqa: PLR0917 - the formula has as many parts
    how: How,
    source: int,
    kv: torch.Tensor,
    q: torch.Tensor,
    dout: torch.Tensor,
    whole: Result,
    dq: torch.Tensor,
) -> torch.Tensor:
    """Gradient (2, B, K, L, D) of the whole block from `source`; what is the queries' is added to `dq`."""
    queries, keys, causal = visible(source, how.cp.part, q.shape[2] // 2)
    block = Block(q[:, :, queries], kv[0][:, :, keys], kv[1][:, :, keys], causal, how.scale)
    seen = Result(whole.out[:, :, queries], whole.lse[:, :, queries].contiguous())
    gradients = how.cp.kernel.backward(block, dout[:, :, queries], seen)
    dq[:, :, queries] += gradients.q
    dkv = torch.zeros_like(kv, dtype=dq.dtype)
    dkv[0][:, :, keys], dkv[1][:, :, keys] = gradients.k, gradients.v
    return dkv


class _HeadsApart(torch.autograd.Function):
    """(B, H, L, D) of a stretch of the sequence -> (B, H / n, n L, D) of the node's part (Ulysses)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cp: ContextParallel) -> torch.Tensor:
        ctx.cp = cp
        return exchange(x, cp.heads, cut=1, join=2)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return exchange(grad, ctx.cp.heads, cut=2, join=1), None


class _HeadsTogether(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cp: ContextParallel) -> torch.Tensor:
        ctx.cp = cp
        return exchange(x, cp.heads, cut=2, join=1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return exchange(grad, ctx.cp.heads, cut=1, join=2), None
