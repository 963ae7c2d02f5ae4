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

from contextgraft.attention.kernels import AttentionBlock, AttentionResult, merge
from contextgraft.attention.sinks import add_sinks, sink_gradients
from contextgraft.training.parallel.communication import (
    GRADIENT_TAG,
    KV_TAG,
    ContextParallel,
    RingArgs,
    RingSendRecv,
    all_to_all,
)
from contextgraft.training.parallel.layout import TORCH
from contextgraft.training.parallel.tiles import WHOLE, AttentionSpan, ShardPair, Tile, tiles
from contextgraft.training.parallel.torch_ring import TorchRing

LENGTH_DIM = 2  # of (B, H, L, D)


class RingBlock(NamedTuple):
    """A block of keys and values (2, B, K, L, D), the ring index it came from, and the turns so far."""

    outer_turn: int
    inner_turn: int
    source: int
    kv: torch.Tensor


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cp: ContextParallel,
    scale: float,
    *,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of this rank's queries (B, H, L, D) on the keys and values (B, K, L, D) of all ranks.

    With a `window` each token sees so many, itself included; the documents of `cp` do not see each other.
    With a `softcap` scores are softcap * tanh(score / softcap). `sinks` (H) are scores that have no values.
    """
    args = RingArgs(cp, scale, AttentionSpan(window, cp.starts), softcap)
    if cp.layout.name == TORCH:
        return TorchRing.apply(q, k, v, args)  # type: ignore[no-untyped-call, no-any-return]
    if cp.heads.size == 1:
        return _Ring.apply(q, k, v, sinks, args)  # type: ignore[no-untyped-call, no-any-return]
    q, k, v = (_ScatterHeads.apply(x, cp) for x in (q, k, v))  # type: ignore[no-untyped-call]
    sinks = None if sinks is None else sinks.chunk(cp.heads.size)[cp.heads.index]
    return _GatherHeads.apply(_Ring.apply(q, k, v, sinks, args), cp)  # type: ignore[no-untyped-call, no-any-return]


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
    def forward(  # noqa: PLR0917 - as many inputs have gradients
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        sinks: torch.Tensor | None,
        args: RingArgs,
    ) -> torch.Tensor:
        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            return _forward(q, k, v, sinks, args)

        out, lse = args.cp.kept.results(compute) if args.cp.kept else compute()
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.args = args
        return out

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse, sinks = ctx.saved_tensors
        cp, dout, total = ctx.args.cp, dout.contiguous(), AttentionResult(out, lse)
        dsinks = None if sinks is None else sink_gradients(sinks, dout, total)
        dq = torch.zeros_like(q, dtype=torch.promote_types(q.dtype, torch.float32))
        own_grad = node_grad = torch.empty(0)
        outer_hop: RingSendRecv | None = None
        inner_hop: RingSendRecv | None = None
        for outer_turn, inner_turn, source, kv in ring_blocks(cp, torch.stack([k, v])):
            dkv = _block_gradients(ctx.args, source, kv, q, dout, total, dq)
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
        return dq.to(q.dtype), own_grad[0].to(k.dtype), own_grad[1].to(v.dtype), dsinks, None


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor | None, args: RingArgs
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, H, L, D) and log-sum-exp (B, H, L) over all blocks and the sinks."""
    sum_dtype = torch.promote_types(q.dtype, torch.float32)
    out = lse = torch.empty(0)
    kernel = args.kernel
    for _, _, source, kv in ring_blocks(args.cp, torch.stack([k, v])):
        for tile in _seen_tiles(args, source, q):
            result = kernel.forward(_attention_block(tile, q, kv, args.scale))
            block_out, block_lse = (_in_order(tile, x).to(sum_dtype) for x in result)
            block_lse = block_lse.unsqueeze(-1)
            if tile == WHOLE:  # always the first
                out, lse = block_out, block_lse
                continue
            if not len(out):
                out = torch.zeros_like(q, dtype=sum_dtype)
                lse = torch.full_like(out[..., :1], float("-inf"))
            merge(_queries_of(tile, out), _queries_of(tile, lse), block_out, block_lse)
    if sinks is not None:
        add_sinks(out, lse, sinks)
    return out.to(q.dtype), lse.squeeze(-1)


def _seen_tiles(args: RingArgs, source: int, q: torch.Tensor) -> Iterator[Tile]:
    """What this rank's queries see of the block from `source`."""
    ring = args.cp.layout.ring
    return tiles(ShardPair(args.cp.ring_index, source, ring, q.shape[LENGTH_DIM] // 2), args.span)


def _queries_of(tile: Tile, x: torch.Tensor) -> torch.Tensor:
    """A view of what belongs to the queries of a tile."""
    return x[tile.rows, :, tile.queries]


def _keys_of(tile: Tile, x: torch.Tensor) -> torch.Tensor:
    """A view of what belongs to the keys of a tile."""
    return x[tile.rows, :, tile.keys]


def _in_order(tile: Tile, x: torch.Tensor) -> torch.Tensor:
    """Queries or keys in the order of the kernel, or back: reversed triangles are computed backwards."""
    return x.flip(LENGTH_DIM) if tile.reversed else x


def _attention_block(tile: Tile, q: torch.Tensor, kv: torch.Tensor, scale: float) -> AttentionBlock:
    key, value = (_in_order(tile, _keys_of(tile, x)) for x in kv)
    return AttentionBlock(_in_order(tile, _queries_of(tile, q)), key, value, tile.causal, scale)


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
    dkv, kernel = torch.zeros_like(kv, dtype=dq.dtype), args.kernel
    for tile in _seen_tiles(args, source, q):
        out, lse, dout_tile = (_in_order(tile, _queries_of(tile, x)) for x in (*total, dout))
        block = _attention_block(tile, q, kv, args.scale)
        gradients = kernel.backward(block, dout_tile, AttentionResult(out, lse.contiguous()))
        _queries_of(tile, dq).add_(_in_order(tile, gradients.q))
        _keys_of(tile, dkv[0]).add_(_in_order(tile, gradients.k))
        _keys_of(tile, dkv[1]).add_(_in_order(tile, gradients.v))
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
