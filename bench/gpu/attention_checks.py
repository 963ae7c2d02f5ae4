"""The kernel of the ring: against float64 and torch's SDPA, around an emulated ring, and its speed."""

import queue
import threading
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
from gpu_checks import Check, GpuSession, Outcome, relative_error

from contextgraft.attention.kernels import (
    KERNELS,
    AttentionBlock,
    AttentionResult,
)
from contextgraft.training.parallel import ring
from contextgraft.training.parallel.communication import ContextParallel, RankGroup, RingArgs, TrafficCounter
from contextgraft.training.parallel.layout import LAYOUTS, Layout, Topology
from contextgraft.training.parallel.tiles import AttentionSpan

CASES = [  # heads, KV heads, head size, queries, keys, causal
    (8, 2, 64, 512, 512, True),
    (8, 8, 128, 512, 512, True),
    (8, 2, 128, 256, 512, False),
    (9, 3, 64, 512, 256, False),
    (4, 2, 32, 256, 256, True),
    (4, 4, 96, 256, 256, True),
    (4, 4, 256, 256, 256, True),
]
Tensors = tuple[torch.Tensor, ...]


def _random(shapes: list[tuple[int, ...]], device: str) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator).to(device, torch.bfloat16) for shape in shapes)


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dout: torch.Tensor,
    causal: bool = False,
    *,
    mask: torch.Tensor | None = None,
) -> Tensors:
    """Output and gradients of torch's scaled dot product attention."""
    inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(
        *inputs, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.detach(), *torch.autograd.grad(out, inputs, dout)


def kernel(session: GpuSession) -> Iterator[Outcome]:
    """A block's output, log-sum-exp and gradients: at most twice SDPA's own error against float64."""
    engine_kernel = KERNELS[session.device]
    for heads, kv_heads, size, queries, keys, causal in CASES:
        shapes = [(2, heads, queries, size), (2, kv_heads, keys, size), (2, kv_heads, keys, size)]
        q, k, v, dout = _random([*shapes, shapes[0]], session.device)
        block = AttentionBlock(q, k, v, causal, size**-0.5)
        exact = AttentionBlock(q.double(), k.double(), v.double(), causal, size**-0.5)
        reference = KERNELS["plain"].forward(exact)
        gradients = KERNELS["plain"].backward(exact, dout.double(), reference)
        result = engine_kernel.forward(block)
        total = AttentionResult(result.out, result.lse.contiguous())
        own = [result.out, *engine_kernel.backward(block, dout, total)]
        expected = [reference.out, *gradients]
        errors = [relative_error(a, b) for a, b in zip(own, expected, strict=True)]
        theirs = [relative_error(a, b) for a, b in zip(_sdpa(q, k, v, dout, causal), expected, strict=True)]
        lse = float((result.lse.double() - reference.lse).abs().max())
        good = all(a <= 2 * b + 1e-3 for a, b in zip(errors, theirs, strict=True)) and lse < 2e-2
        good = good and tuple(result.lse.shape) == (2, heads, queries)
        name = f"H{heads}/{kv_heads} D{size} {queries}x{keys} {'causal' if causal else 'full'}"
        figures = dict(zip(("out", "dq", "dk", "dv"), errors, strict=True))
        yield Outcome(name, {**figures, "sdpa_worst": max(theirs), "lse": lse}, good)


class _ThreadRing:
    """Emulates RingSendRecv for ranks that are threads: a message is a tensor in the receiver's queue."""

    def __init__(self, group: RankGroup, message: torch.Tensor, tag: int) -> None:
        queues: dict[Any, queue.Queue[torch.Tensor]] = group.group
        queues[group.ranks[(group.index + 1) % group.size], group.ranks, tag].put(message.clone())
        self.incoming = queues[group.rank, group.ranks, tag]

    def wait(self) -> torch.Tensor:
        """The received tensor."""
        return self.incoming.get(timeout=60)


class _Queues(dict[Any, "queue.Queue[torch.Tensor]"]):
    """A queue for each receiver, ring and tag, made when it is first used."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __missing__(self, key: Any) -> "queue.Queue[torch.Tensor]":
        with self.lock:
            return self.setdefault(key, queue.Queue())


def _peers(layout: Layout, rank: int, queues: _Queues, device: str) -> ContextParallel:
    """What attention of one rank needs, with queues instead of process groups."""
    traffic, patience = TrafficCounter(layout.inner), timedelta(seconds=60)
    node, index = divmod(rank, layout.inner)
    inner = tuple(node * layout.inner + i for i in range(layout.inner))
    outer = tuple(i * layout.inner + index for i in range(layout.outer))
    groups: list[RankGroup] = [
        RankGroup(queues, ranks, own, patience, traffic)
        for ranks, own in ((outer, node), (inner, index), ((rank,), 0))
    ]
    return ContextParallel(layout, rank, *groups, KERNELS[device], traffic)


def _ring_pass(
    layout: Layout, inputs: Tensors, dout: torch.Tensor, span: AttentionSpan, device: str
) -> Tensors:
    """Output and gradients of the whole sequence by the engine's ring, with a thread for each rank."""
    whole = [torch.zeros(x.shape, device=device) for x in (inputs[0], *inputs)]
    failures: list[BaseException] = []
    queues = _Queues()

    def rank_pass(rank: int) -> None:
        try:
            peers = _peers(layout, rank, queues, device)
            held = peers.positions(inputs[0].shape[2]).to(device)
            context: Any = SimpleNamespace()
            context.save_for_backward = lambda *tensors: setattr(context, "saved_tensors", tensors)
            args = RingArgs(peers, inputs[0].shape[-1] ** -0.5, span)
            with torch.no_grad():
                out = ring._Ring.forward(context, *(x[:, :, held] for x in inputs), None, args)
                grads = ring._Ring.backward(context, dout[:, :, held])[:3]
                for full, shard in zip(whole, (out, *grads), strict=True):
                    full[:, :, held] = shard.float()
        except BaseException as error:
            failures.append(error)

    real = ring.RingSendRecv
    ring.RingSendRecv = _ThreadRing
    try:
        threads = [threading.Thread(target=rank_pass, args=(rank,)) for rank in range(layout.ring)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        ring.RingSendRecv = real
    if failures:
        raise failures[0]
    return tuple(whole)


def _seen(length: int, span: AttentionSpan, device: str) -> torch.Tensor:
    """Which keys each query sees, from the definitions."""
    positions = torch.arange(length, device=device)
    (starts,) = span.starts or ((0,),)
    document = torch.bucketize(positions, torch.tensor(starts, device=device), right=True)
    age = positions[:, None] - positions
    return (age >= 0) & (age < (span.window or length)) & (document[:, None] == document)


def emulated_ring(session: GpuSession) -> Iterator[Outcome]:
    """The engine's ring of 4 ranks, flat and in layers, against float64: 2 % of the norm.

    All is seen, or what is in a window, or each document by itself, or both.
    """
    length = 512 if session.small else 4096
    shapes = [(1, 8, length, 64), (1, 2, length, 64), (1, 2, length, 64), (1, 8, length, 64)]
    q, k, v, dout = _random(shapes, session.device)
    starts = (tuple(sorted({0, 3, length // 5, length // 2, length - 7})),)
    spans = {
        "": AttentionSpan(),
        ", window": AttentionSpan(length // 3),
        ", documents": AttentionSpan(None, starts),
        ", window and documents": AttentionSpan(length // 3, starts),
    }
    for seen, span in spans.items():
        exact = [x.double() for x in (q, k, v, dout)]
        expected = _sdpa(*exact, mask=_seen(length, span, session.device))
        for name in ("flat", "double"):
            layout = LAYOUTS[name](Topology(2, 2), 8, 2)
            result = _ring_pass(layout, (q, k, v), dout, span, session.device)
            errors = [relative_error(a, b) for a, b in zip(result, expected, strict=True)]
            figures = dict(zip(("out", "dq", "dk", "dv"), errors, strict=True))
            yield Outcome(f"{name}{seen}, {layout.ring} ranks, {length} tokens", figures, max(errors) < 2e-2)


def kernel_speed(session: GpuSession) -> Iterator[Outcome]:
    """TFLOP/s of the ring's kernel, and of cuDNN's through SDPA, which is not used."""
    for length in (512,) if session.small else (8192, 32768):
        heads, kv_heads, size = (4, 2, 64) if session.small else (32, 8, 128)
        shapes = [(1, heads, length, size), *[(1, kv_heads, length, size)] * 2, (1, heads, length, size)]
        q, k, v, dout = _random(shapes, session.device)
        flops = 2 * length * length * heads * size / 1e12  # half of the pairs are visible
        figures = _ring_speed(session, AttentionBlock(q, k, v, True, size**-0.5), dout, flops)
        if session.is_gpu:
            figures |= _cudnn_speed(session, (q, k, v), dout, flops)
        yield Outcome(f"TFLOP/s, {length} tokens, {heads} heads of {size}", figures)


def _ring_speed(
    session: GpuSession, block: AttentionBlock, dout: torch.Tensor, flops: float
) -> dict[str, Any]:
    engine_kernel = KERNELS[session.device]
    result = engine_kernel.forward(block)
    forward = session.seconds_of(lambda: engine_kernel.forward(block))
    backward = session.seconds_of(lambda: engine_kernel.backward(block, dout, result))
    return {"forward": flops / forward, "backward": 2.5 * flops / backward}


def _cudnn_speed(session: GpuSession, inputs: Tensors, dout: torch.Tensor, flops: float) -> dict[str, Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = inputs
    repeats = q.shape[1] // k.shape[1]
    leaves = [x.clone().requires_grad_() for x in (q, *(x.repeat_interleave(repeats, 1) for x in (k, v)))]

    def forward() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)

    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            seconds, out = session.seconds_of(forward), forward()
            backward = session.seconds_of(lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True))
    except RuntimeError as error:
        return {"cudnn": str(error)[:80]}
    return {"cudnn_forward": flops / seconds, "cudnn_backward": 2.5 * flops / backward}


CHECKS = [
    Check("kernel", kernel, 10),
    Check("ring", emulated_ring, 10),
    Check("kernel-speed", kernel_speed, 15),
]
