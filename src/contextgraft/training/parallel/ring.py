"""Exact causal attention over a sequence that is sharded over many ranks: nested rings, forward and backward.

Blocks of keys and values move around the ring; each rank attends its queries to each block and merges the
results by log-sum-exp (Liu et al. 2023, arXiv 2310.01889; nested rings after Gu et al. 2024, LoongTrain,
arXiv 2406.18485). The next block is sent while the present one is computed. Sums are kept in float32 or
wider.

Shapes: B batch, H query heads, K KV heads, L tokens of a rank, D head size.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from contextgraft.training.parallel.attention_kernels import AttentionBlock, AttentionResult
from contextgraft.training.parallel.communication import (
    GRADIENT_TAG,
    KV_TAG,
    ContextParallel,
    RingArgs,
    RingSendRecv,
    all_to_all,
)
from contextgraft.training.parallel.layout import TORCH
from contextgraft.training.parallel.torch_ring import TorchRing

ALL = slice(None)


class RingBlock(NamedTuple):
    """A block of keys and values (2, B, K, L, D), the ring index it came from, and the turns so far."""

    outer_turn: int
    inner_turn: int
    source: int
    kv: torch.Tensor


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cp: ContextParallel, scale: float
) -> torch.Tensor:
    """Attention of this rank's queries (B, H, L, D) on the keys and values (B, K, L, D) of all ranks."""
    args = RingArgs(cp, scale)
    if cp.layout.name == TORCH:
        return TorchRing.apply(q, k, v, args)  # type: ignore[no-untyped-call, no-any-return]
    if cp.heads.size == 1:
        return _Ring.apply(q, k, v, args)  # type: ignore[no-untyped-call, no-any-return]
    q, k, v = (_ScatterHeads.apply(x, cp) for x in (q, k, v))  # type: ignore[no-untyped-call]
    return _GatherHeads.apply(_Ring.apply(q, k, v, args), cp)  # type: ignore[no-untyped-call, no-any-return]


def visible(source: int, ring_index: int, half: int) -> tuple[slice, slice, bool]:
    """Which queries see which keys of the block from `source`, and whether causally within the block.

    Zig-zag shards: all queries see the front half of an earlier shard; the back half of the queries sees all
    of a later shard.
    """
    if source == ring_index:
        return ALL, ALL, True
    return (ALL, slice(0, half), False) if source < ring_index else (slice(half, None), ALL, False)


def ring_blocks(cp: ContextParallel, kv: torch.Tensor) -> Iterator[RingBlock]:
    """The blocks of all ranks in the order they arrive; the next one is already being sent."""
    outer, inner = cp.outer, cp.inner
    for outer_turn in range(outer.size):
        outer_hop = RingSendRecv(outer, kv, KV_TAG) if outer_turn + 1 < outer.size else None
        block = kv
        for inner_turn in range(inner.size):
            inner_hop = RingSendRecv(inner, block, KV_TAG) if inner_turn + 1 < inner.size else None
            node = (outer.index - outer_turn) % outer.size
            source = node * inner.size + (inner.index - inner_turn) % inner.size
            yield RingBlock(outer_turn, inner_turn, source, block)
            block = inner_hop.wait() if inner_hop else block
        kv = outer_hop.wait() if outer_hop else kv


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, args: RingArgs) -> torch.Tensor:
        cp, half, sum_dtype = args.cp, q.shape[2] // 2, torch.promote_types(q.dtype, torch.float32)
        out = lse = torch.empty(0)
        for _, _, source, (key, value) in ring_blocks(cp, torch.stack([k, v])):
            queries, keys, causal = visible(source, cp.ring_index, half)
            block = AttentionBlock(q[:, :, queries], key[:, :, keys], value[:, :, keys], causal, args.scale)
            result = cp.kernel.forward(block)
            block_out, block_lse = result.out.to(sum_dtype), result.lse.to(sum_dtype).unsqueeze(-1)
            if source == cp.ring_index:  # always the first block
                out, lse = block_out, block_lse
            else:
                merge(out[:, :, queries], lse[:, :, queries], block_out, block_lse)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.squeeze(-1))
        ctx.args = args
        return out

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *total = ctx.saved_tensors
        cp, dout = ctx.args.cp, dout.contiguous()
        dq = torch.zeros_like(q, dtype=torch.promote_types(q.dtype, torch.float32))
        own_grad = node_grad = torch.empty(0)
        outer_hop: RingSendRecv | None = None
        inner_hop: RingSendRecv | None = None
        for outer_turn, inner_turn, source, kv in ring_blocks(cp, torch.stack([k, v])):
            dkv = _block_gradients(ctx.args, source, kv, q, dout, AttentionResult(*total), dq)
            # The gradient of a block follows it, one turn behind, and ends at the rank that owns the block.
            if inner_turn == 0:
                node_grad = dkv
            else:
                grad = dkv.add_(inner_hop.wait()) if inner_hop else dkv
                inner_hop = RingSendRecv(cp.inner, grad, GRADIENT_TAG)
            if inner_turn + 1 < cp.inner.size:
                continue
            node_grad = node_grad.add_(inner_hop.wait()) if inner_hop else node_grad
            inner_hop = None
            if outer_turn == 0:
                own_grad = node_grad
            else:
                grad = node_grad.add_(outer_hop.wait()) if outer_hop else node_grad
                outer_hop = RingSendRecv(cp.outer, grad, GRADIENT_TAG)
        own_grad = own_grad.add_(outer_hop.wait()) if outer_hop else own_grad
        return dq.to(q.dtype), own_grad[0].to(k.dtype), own_grad[1].to(v.dtype), None


def merge(out: torch.Tensor, lse: torch.Tensor, block_out: torch.Tensor, block_lse: torch.Tensor) -> None:
    """Add the attention on another block in place, weighted by its fraction of the softmax."""
    out.add_(torch.sigmoid(block_lse - lse) * (block_out - out))
    lse.copy_(torch.logaddexp(lse, block_lse))


def _block_gradients(  # noqa: PLR0917 - the formula has as many terms
    args: RingArgs,
    source: int,
    kv: torch.Tensor,
    q: torch.Tensor,
    dout: torch.Tensor,
    total: AttentionResult,
    dq: torch.Tensor,
) -> torch.Tensor:
    """Gradient (2, B, K, L, D) of the block from `source`; the gradient of the queries is added to `dq`."""
    queries, keys, causal = visible(source, args.cp.ring_index, q.shape[2] // 2)
    block = AttentionBlock(q[:, :, queries], kv[0][:, :, keys], kv[1][:, :, keys], causal, args.scale)
    seen = AttentionResult(total.out[:, :, queries], total.lse[:, :, queries].contiguous())
    gradients = args.cp.kernel.backward(block, dout[:, :, queries], seen)
    dq[:, :, queries] += gradients.q
    dkv = torch.zeros_like(kv, dtype=dq.dtype)
    dkv[0][:, :, keys], dkv[1][:, :, keys] = gradients.k, gradients.v
    return dkv


class _ScatterHeads(torch.autograd.Function):
    """(B, H, L, D) of a slice of the sequence -> (B, H / n, n L, D) of the node's shard (Ulysses)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cp: ContextParallel) -> torch.Tensor:
        ctx.cp = cp
        return all_to_all(x, cp.heads, split_dim=1, join_dim=2)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_to_all(grad, ctx.cp.heads, split_dim=2, join_dim=1), None


class _GatherHeads(torch.autograd.Function):
    """(B, H / n, n L, D) of the node's shard -> (B, H, L, D) of a slice of the sequence."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cp: ContextParallel) -> torch.Tensor:
        ctx.cp = cp
        return all_to_all(x, cp.heads, split_dim=2, join_dim=1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_to_all(grad, ctx.cp.heads, split_dim=1, join_dim=2), None
