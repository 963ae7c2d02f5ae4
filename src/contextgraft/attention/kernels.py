"""Attention of one block of queries on one block of keys: output with its log-sum-exp, and the gradients.

Blocks of keys are merged by log-sum-exp. The gradients use the output and log-sum-exp over *all* blocks: so
the gradients of the blocks add up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from contextgraft.errors import InputError

aten = torch.ops.aten


class AttentionBlock(NamedTuple):
    """q (B, H, Lq, D), k and v (B, K, Lk, D) with K dividing H; causal only where Lq is Lk."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    causal: bool
    scale: float


class AttentionResult(NamedTuple):
    """Output (B, H, Lq, D) and log-sum-exp (B, H, Lq) of the scores."""

    out: torch.Tensor
    lse: torch.Tensor


class AttentionGradients(NamedTuple):
    """Gradients of the loss with respect to q, k and v, each with its shape."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


@dataclass(frozen=True)
class AttentionKernel:
    """Forward and backward of a block, the dtypes they support, and the largest head size (None: any).

    Backward takes the block, the gradient of the output, and the result over all blocks.
    """

    forward: Callable[[AttentionBlock], AttentionResult]
    backward: Callable[[AttentionBlock, torch.Tensor, AttentionResult], AttentionGradients]
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16)
    head_size: int | None = None


def merge(out: torch.Tensor, lse: torch.Tensor, block_out: torch.Tensor, block_lse: torch.Tensor) -> None:
    """Add the attention on another block in place, weighted by its fraction of the softmax.

    Outputs (B, H, L, D) and log-sum-exps (B, H, L, 1), in float32 or wider.
    """
    out.add_(torch.sigmoid(block_lse - lse) * (block_out - out))
    lse.copy_(torch.logaddexp(lse, block_lse))


def _cpu_forward(block: AttentionBlock) -> AttentionResult:
    q, k, v, causal, scale = block
    return AttentionResult(
        *aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    )


def _cpu_backward(block: AttentionBlock, dout: torch.Tensor, total: AttentionResult) -> AttentionGradients:
    q, k, v, causal, scale = block
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return AttentionGradients(*backward(dout, q, k, v, total.out, total.lse, 0.0, causal, scale=scale))


def _cuda_forward(block: AttentionBlock) -> AttentionResult:
    q, k, v, causal, scale = block
    return AttentionResult(
        *aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[:2]
    )


def _cuda_backward(block: AttentionBlock, dout: torch.Tensor, total: AttentionResult) -> AttentionGradients:
    q, k, v, causal, scale = block
    seed = torch.zeros((), dtype=torch.int64, device=q.device)  # of dropout, which is off
    backward = aten._scaled_dot_product_flash_attention_backward
    sizes = (None, None, q.shape[2], k.shape[2])
    return AttentionGradients(
        *backward(dout, q, k, v, total.out, total.lse, *sizes, 0.0, causal, seed, seed, scale=scale)
    )


def _plain_forward(block: AttentionBlock) -> AttentionResult:
    scores = _scores(block)
    lse = scores.logsumexp(-1)
    return AttentionResult((scores - lse.unsqueeze(-1)).exp() @ _repeated(block.v, block.q), lse)


def _plain_backward(block: AttentionBlock, dout: torch.Tensor, total: AttentionResult) -> AttentionGradients:
    q, k, v, _, scale = block
    probabilities = (_scores(block) - total.lse.unsqueeze(-1)).exp()
    dscores = probabilities * (dout @ _repeated(v, q).mT - (dout * total.out).sum(-1, keepdim=True)) * scale
    return AttentionGradients(
        dscores @ _repeated(k, q), _summed(dscores.mT @ q, k), _summed(probabilities.mT @ dout, v)
    )


def _scores(block: AttentionBlock) -> torch.Tensor:
    scores = block.q @ _repeated(block.k, block.q).mT * block.scale
    if not block.causal:
        return scores
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, float("-inf"))


def _repeated(kv: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return kv.repeat_interleave(q.shape[1] // kv.shape[1], dim=1)


def _summed(grad: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    batch, heads, length, size = kv.shape
    return grad.reshape(batch, heads, -1, length, size).sum(2)


KERNELS: dict[str, AttentionKernel] = {
    "cpu": AttentionKernel(_cpu_forward, _cpu_backward),
    "cuda": AttentionKernel(_cuda_forward, _cuda_backward, (torch.bfloat16,), 256),  # never run by the tests
    "plain": AttentionKernel(_plain_forward, _plain_backward),
}


def check_dtype(device: str, dtype: torch.dtype) -> None:
    """Raise InputError if the kernel of a device type does not support a dtype."""
    supported = KERNELS[device].dtypes
    if dtype not in supported:
        names = [str(name).removeprefix("torch.") for name in (*supported, dtype)]
        raise InputError(
            f"attention on {device} does not support this dtype",
            expected=f"--dtype {' or '.join(names[:-1])}",
            received=names[-1],
        )
